"""The sets of an evaluation: folders as they are, and mask sets drawn once from photographs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from saicinpainting.evaluation.report import EvaluationSet
from saicinpainting.io.device import pick_device
from saicinpainting.masks.mask_sets import RECIPES, check_outside, make_mask_set, read_recipe
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class NamedSet:
    """A set that the settings name, in `folder`; recipe: what draws it there, None if it is there."""

    name: str
    folder: Path
    recipe: Path | None


def find_sets(settings: Settings, outdir: Path) -> list[NamedSet]:
    """The sets that `settings["sets"]` names, by a folder or a recipe; nothing is drawn yet."""
    named = [_find_set(name, settings, outdir) for name in settings["sets"]]
    for names in ([one.name for one in named], [one.folder.resolve().name for one in named]):
        if len(set(names)) < len(names):
            raise InputError(f"sets: two of {', '.join(names)} have the same name; rename a folder")
    return named


def _find_set(name: str, settings: Settings, outdir: Path) -> NamedSet:
    """A folder as it is, or the recipe of that name and `size`."""
    if Path(name).is_dir():
        check_outside(outdir, Path(name))
        return NamedSet(Path(name).resolve().name, Path(name), None)
    size = settings["size"]
    candidates = [f"random_{name}_{size}", f"{name}_{size}", name]
    recipe = next((RECIPES / f"{one}.yaml" for one in candidates if (RECIPES / f"{one}.yaml").is_file()), None)
    if recipe is None:
        raise _no_recipe(name, size)
    if settings["indir"] is None:
        raise InputError(f"indir: the set {name} is drawn from photographs; name their folder")
    check_outside(outdir, Path(settings["indir"]))
    return NamedSet(name, outdir / "sets" / recipe.stem, recipe)


def _no_recipe(name: str, size: Any) -> InputError:
    stems = [file.stem.rpartition("_") for file in RECIPES.glob("*.yaml")]
    sizes = sorted({int(of) for kind, _, of in stems if kind in (name, f"random_{name}") and of.isdigit()})
    if sizes:
        drawn = " or ".join(map(str, sizes))
        return InputError(f"size: the set {name} is drawn at {drawn} px, not at {size}; set size to one of them")
    known = {kind.removeprefix("random_") for kind, _, _ in stems}
    return InputError(f"sets: {name!r} is neither a folder nor a recipe for size={size}; {did_you_mean(name, known)}")


def draw_set(one: NamedSet, settings: Settings) -> EvaluationSet:
    """Draw from `indir` what is not there yet."""
    out, recipe, indir = one.folder, one.recipe, settings["indir"]
    if recipe is None:
        return EvaluationSet(one.name, out, f"the folder {out}")
    config = read_recipe(recipe, device=pick_device(settings["device"]).type)
    print(f"masks of {one.name}: {out}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Evaluations that start side by side share the set: one makes it, the others wait.
    with FileLock(out.with_name(f".{out.name}.lock")):
        summary = make_mask_set(
            config, indir, out, ext="auto", n_jobs=int(settings["n_jobs"]), seed=int(settings["seed"])
        )
    for reason in summary.skipped:
        LOGGER.warning("skipped %s", reason)
    if not summary.masks:
        raise InputError(f"no image of {indir} gave a mask of {recipe.name}; see the reasons above")
    return EvaluationSet(one.name, out, f"{recipe.stem}, seed {settings['seed']}, of {indir}: {summary}")
