"""The sets of an evaluation: folders as they are, and mask sets drawn once from photographs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from saicinpainting.evaluation.report import EvaluationSet
from saicinpainting.io.device import pick_device
from saicinpainting.masks.mask_sets import RECIPES, check_outside, make_mask_set, read_recipe
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
Settings = Mapping[str, Any]
SCALED = 512
"""Size of the recipes that larger sets are scaled from."""


def find_sets(settings: Settings, outdir: Path) -> list[EvaluationSet]:
    """The sets that `settings["sets"]` names, by a folder or a recipe; nothing is drawn yet."""
    named = [_find_set(name, settings, outdir) for name in settings["sets"]]
    for names in ([one.name for one in named], [one.folder.resolve().name for one in named]):
        if len(set(names)) < len(names):
            raise InputError(f"sets: two of {', '.join(names)} have the same name; rename a folder")
    return named


def _find_set(name: str, settings: Settings, outdir: Path) -> EvaluationSet:
    """A folder as it is, or the recipe of that name and `size`; `thick_512` names its size itself."""
    if Path(name).is_dir():
        check_outside(outdir, Path(name))
        return EvaluationSet(Path(name).resolve().name, Path(name), origin=f"the folder {name}")
    size = settings["size"]
    recipes = {file.stem.removeprefix("random_"): file for file in RECIPES.glob("*.yaml")}
    kind = name.removeprefix("random_")
    recipe, scale = recipes.get(f"{kind}_{size}") or recipes.get(kind), 1
    if recipe is None:
        recipe, scale = _scaled_recipe(kind, size, recipes)
    if recipe is None:
        kinds = {stem.rpartition("_")[0] for stem in recipes}
        if kind in kinds:
            drawn = " or ".join(sorted(stem.rpartition("_")[2] for stem in recipes if stem.startswith(f"{kind}_")))
            raise InputError(
                f"size: the set {name} is drawn at {drawn} px, not at {size}; set size to one of them or a multiple of "
                f"{SCALED}"
            )
        raise InputError(
            f"sets: {name!r} is neither a folder nor a recipe for size={size}; {did_you_mean(name, kinds)}"
        )
    if settings["indir"] is None:
        raise InputError(f"indir: the set {name} is drawn from photographs; name their folder")
    check_outside(outdir, Path(settings["indir"]))
    stem = recipe.stem if scale == 1 else f"{recipe.stem.rpartition('_')[0]}_{scale * SCALED}"
    return EvaluationSet(name, outdir / "sets" / stem, recipe, scale=scale)


def _scaled_recipe(kind: str, size: int, recipes: Mapping[str, Path]) -> tuple[Path | None, int]:
    """The 512 px recipe and its scale for `thick_2048`, or for `thick` and a `size` of 2048."""
    base, _, own = kind.rpartition("_")
    base, size = (base, int(own)) if base and own.isdecimal() else (kind, size)
    return (recipes.get(f"{base}_{SCALED}"), size // SCALED) if size % SCALED == 0 else (None, 1)


def draw_set(one: EvaluationSet, settings: Settings) -> EvaluationSet:
    """Draw from `indir` what is not there yet."""
    out, recipe, indir = one.folder, one.recipe, settings["indir"]
    if recipe is None:
        return one
    config = read_recipe(recipe, device=pick_device(settings["device"]).type, scale=one.scale)
    print(f"masks of {one.name}: {out}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Evaluations that start side by side share the set: one makes it, the others wait.
    with FileLock(out.with_name(f".{out.name}.lock")):
        summary = make_mask_set(config, indir, out, ext="auto", n_jobs=settings["n_jobs"], seed=settings["seed"])
    for reason in summary.skipped:
        LOGGER.warning("skipped %s", reason)
    if not summary.masks:
        raise InputError(f"no image of {indir} gave a mask of {recipe.name}; see the reasons above")
    scaled = f" x {one.scale}" if one.scale > 1 else ""
    return replace(one, origin=f"{recipe.stem}{scaled}, seed {settings['seed']}, of {indir}: {summary}")
