"""From a checkpoint to a table: sets of masks, predictions, metrics, a report. What is interrupted goes on."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import torch

from saicinpainting.evaluation.data import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation.evaluator import InpaintingEvaluator, Results
from saicinpainting.evaluation.masks.mask_sets import make_mask_set, read_recipe
from saicinpainting.evaluation.predictions import make_measuring_evaluator, measure_with, metric_switches
from saicinpainting.evaluation.published import PROTOCOLS
from saicinpainting.evaluation.report import EvaluationSet, SetResult, write_report
from saicinpainting.evaluation.utils import pick_device
from saicinpainting.files import write_whole
from saicinpainting.inference.folders import FillBatch, checkpoint_file, difference, load_filler, origin, predict_folder
from saicinpainting.training.data.datasets import make_default_val_dataset
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
Settings = Mapping[str, Any]
ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs" / "data_gen"
MADE_BY = "made_by.json"
PACKAGES = ("torchvision", "pytorch-lightning", "lpips", "pytorch-fid", "numpy", "opencv-python-headless")


def evaluate_checkpoint(settings: Settings) -> Path:
    """Evaluate as configs/evaluation/default.yaml describes it; the model's folder in `outdir`.

    It gets `predictions/SET/`, `results.csv`, `results.json`, `images.csv` and `report.html`.
    """
    switches = metric_switches(settings["metrics"], where="metrics")
    paper = _paper(settings)
    outdir = Path(settings["outdir"])
    name = _model_name(settings["model"])
    folder = outdir / name
    made_by = _claim(folder, settings)
    sets = [_make_set(one, settings, outdir / "sets") for one in settings["sets"]]
    if len({one.name for one in sets}) < len(sets):
        raise InputError(f"sets: two of {', '.join(one.name for one in sets)} have the same name; rename a folder")
    fill = _lazy_filler(settings)
    for one in sets:
        _predict(one, settings, fill, folder / "predictions" / one.name)
    kept = ("lpips_weights", "fid_weights", "segm_weights", "device")
    options: dict[str, Any] = {**switches, **{key: settings[key] for key in kept}}
    evaluator = make_measuring_evaluator(**options)
    results = [_measure(one, settings, evaluator, outdir, folder) for one in sets]
    history = {**made_by, "name": name, "sets": {one.name: one.origin for one in sets}, **_circumstances(settings)}
    write_tables(results, folder, history)
    write_report(results, folder / "report.html", history, paper=paper, examples=int(settings["examples"]))
    return folder


# ---- what is asked -------------------------------------------------------------------------------------------------


def _paper(settings: Settings) -> str | None:
    paper = settings["paper"]
    if paper == "auto":
        return {256: "celeba", 512: "places"}.get(settings["size"])
    if paper is not None and paper not in PROTOCOLS:
        raise InputError(f"paper: unknown protocol {paper!r}; {did_you_mean(str(paper), PROTOCOLS)}, auto or null")
    return paper


def _model_name(model: Settings) -> str:
    if model.get("name"):
        name = str(model["name"])
    else:
        checkpoint = Path(model["checkpoint"]).stem
        name = Path(model["path"]).resolve().name + ("" if checkpoint == "best" else f"_{checkpoint}")
    if name in ("sets", "cache") or Path(name).name != name:
        raise InputError(f"model.name: {name!r} cannot be a folder's name here; choose another")
    return name


def _claim(folder: Path, settings: Settings) -> dict[str, Any]:
    """What decides the predictions in `folder`; an `InputError` if others lie there."""
    checkpoint = checkpoint_file(settings["model"])
    refiner = settings["refiner"] if settings["refine"] else None
    made_by = origin(settings["model"], {"refiner": refiner, "dataset": dict(settings["dataset"])})
    record = folder / MADE_BY
    if not record.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no evaluation; set model.name or another outdir")
    other = difference(record, made_by)
    if other:
        raise InputError(
            f"{folder} holds predictions of another model or setting ({other}); set model.name to write beside them, "
            "or remove that folder"
        )
    write_whole(record, json.dumps(made_by, indent=1))
    return {"checkpoint": str(checkpoint), **made_by}


# ---- the steps -----------------------------------------------------------------------------------------------------


def _make_set(name: str, settings: Settings, folder: Path) -> EvaluationSet:
    """A folder as it is, or the set that a recipe draws from `indir`, made as far as it is not there."""
    if Path(name).is_dir():
        return EvaluationSet(Path(name).resolve().name, Path(name), f"the folder {name}")
    size = settings["size"]
    candidates = [f"random_{name}_{size}", f"{name}_{size}", name]
    recipe = next((RECIPES / f"{one}.yaml" for one in candidates if (RECIPES / f"{one}.yaml").is_file()), None)
    if recipe is None:
        known = sorted({file.stem.removeprefix("random_").rpartition("_")[0] for file in RECIPES.glob("*.yaml")})
        raise InputError(
            f"sets: {name!r} is neither a folder nor a recipe for size={size}; {did_you_mean(name, known)}"
        )
    if settings["indir"] is None:
        raise InputError(f"indir: the set {name} is drawn from photographs; name their folder")
    config = read_recipe(recipe, device=pick_device(settings["device"]).type)
    out = folder / recipe.stem
    print(f"masks of {name}: {out}", flush=True)
    summary = make_mask_set(
        config, settings["indir"], out, ext="auto", n_jobs=int(settings["n_jobs"]), seed=int(settings["seed"])
    )
    for reason in summary.skipped:
        LOGGER.warning("skipped %s", reason)
    if not summary.masks:
        raise InputError(f"no image of {settings['indir']} gave a mask of {recipe.name}; see the reasons above")
    return EvaluationSet(name, out, f"{recipe.stem}, seed {settings['seed']}, of {settings['indir']}: {summary}")


def _lazy_filler(settings: Settings) -> FillBatch:
    """The network is loaded with the first image that has no prediction yet."""

    @cache
    def loaded() -> FillBatch:
        refining = {"refine": settings["refine"], "refiner": settings["refiner"]}
        return load_filler(settings["model"], pick_device(settings["device"]), **refining)

    return lambda batch: loaded()(batch)


def _predict(one: EvaluationSet, settings: Settings, fill: FillBatch, outdir: Path) -> None:
    print(f"predictions of {one.name}: {outdir}", flush=True)
    dataset: Any = make_default_val_dataset(one.folder, **settings["dataset"])
    summary = predict_folder(fill, dataset, one.folder, outdir)
    if summary.skipped:
        raise InputError(f"{one.name}: {'; '.join(summary.skipped.values())}; mend or remove these images")


def _measure(
    one: EvaluationSet, settings: Settings, evaluator: InpaintingEvaluator, outdir: Path, folder: Path
) -> SetResult:
    print(f"metrics of {one.name}", flush=True)
    dataset = PrecomputedInpaintingResultsDataset(
        one.folder,
        folder / "predictions" / one.name,
        inpainted_suffix=".png",
        img_suffix=settings["dataset"].get("img_suffix", ".jpg"),
    )
    measured = measure_with(
        evaluator,
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["num_workers"],
        cache_dir=outdir / "cache",
        rows_file=folder / "rows.sqlite",
    )
    return SetResult(one, measured.results, measured.images, dataset, measured.computed)


# ---- what comes out ------------------------------------------------------------------------------------------------


def write_tables(results: Sequence[SetResult], folder: Path, history: Mapping[str, Any]) -> None:
    """`results.csv` (a row a set, metric and group), `images.csv` (a row a set and image), `results.json`."""
    import pandas

    rows = [
        {"set": one.set.name, "metric": metric, "group": group, **statistics}
        for one in results
        for (metric, group), statistics in one.results.items()
    ]
    table = pandas.DataFrame(rows, columns=["set", "metric", "group", "mean", "std"])
    write_whole(folder / "results.csv", table.to_csv(sep="\t", index=False, float_format="%.4f"))
    images = pandas.concat([one.images.assign(set=one.set.name) for one in results], ignore_index=True)
    images = images[["set", *(name for name in images.columns if name != "set")]]
    write_whole(folder / "images.csv", images.to_csv(sep="\t", index=False, float_format="%.6f"))
    content = {
        "made_by": history,
        "sets": {
            one.set.name: {
                "folder": str(one.set.folder.resolve()),
                "images": len(one.images),
                "computed": dict(one.computed),  # the rest was known, from another checkpoint or an earlier start
                "results": _nested(one.results),
            }
            for one in results
        },
    }
    write_whole(folder / "results.json", json.dumps(content, indent=1))


def _nested(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for (metric, group), statistics in results.items():
        nested.setdefault(metric, {})[group] = {name: float(value) for name, value in statistics.items()}
    return nested


def _circumstances(settings: Settings) -> dict[str, Any]:
    device = pick_device(settings["device"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{package: _version(package) for package in PACKAGES}},
        "settings": settings,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this code, marked if files were changed since; `unknown` outside a repository."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
        if run.returncode:
            raise OSError(run.stderr)
        return run.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
