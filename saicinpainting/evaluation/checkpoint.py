"""Evaluate a checkpoint: draw mask sets, predict, measure, report. An interrupted evaluation is resumed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from saicinpainting.config import CONFIGS
from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.evaluation.models_table import check_table_metrics, write_models_table
from saicinpainting.evaluation.paper_results import DATASETS, beside_paper, dataset_of, published_name
from saicinpainting.evaluation.predictions import (
    Measurement,
    make_measuring_evaluator,
    measure_predictions,
    metric_switches,
    predicted_set,
)
from saicinpainting.evaluation.report import EvaluationSet, SetResult, totals, write_report
from saicinpainting.evaluation.sets import draw_set, find_sets
from saicinpainting.inference.backends import (
    Backend,
    checkpoint_file,
    image_channels,
    load_backend,
    share_limits,
    warn_of_unrefined,
)
from saicinpainting.inference.folders import origin, predict_folder
from saicinpainting.inference.results import results_in
from saicinpainting.io.connection import is_address, settings_without_secrets
from saicinpainting.io.device import pick_device
from saicinpainting.io.files import write_whole
from saicinpainting.io.provenance import Provenance, digest_of_files
from saicinpainting.io.ranks import Ranks
from saicinpainting.metrics.evaluator import InpaintingEvaluator, Results, number_text
from saicinpainting.utils import InputError, check_known_keys, check_whole, did_you_mean

Settings = Mapping[str, Any]
ROOT = CONFIGS.parent
PACKAGES = ("torchvision", "pytorch-lightning", "lpips", "pytorch-fid", "numpy", "opencv-python-headless")


def evaluate_checkpoint(settings: Settings, ranks: Ranks | None = None) -> Path:
    """Evaluate as configs/evaluation/default.yaml describes it; the model's folder in `outdir`.

    It gets `predictions/FOLDER_OF_SET/`, `results.csv`, `results.json`, `images.csv` and `report.html`; `outdir` gets
    `table.md` and `table.tex` of all models in it.

    ranks: the processes that share the images of each set; all of them call this.
    """
    ranks = ranks or Ranks()
    settings = {**settings, **{key: _listed(settings[key]) for key in ("sets", "table")}}
    if not settings["sets"]:
        raise InputError("sets: nothing to evaluate; name some, such as thick, or folders with masks")
    switches = metric_switches(settings["metrics"], where="metrics")
    if settings["paper"] not in (None, "auto", *DATASETS):
        known = did_you_mean(str(settings["paper"]), DATASETS)
        raise InputError(f"paper: unknown data set {settings['paper']!r}; {known}, auto or null")
    check_table_metrics(settings["table"])
    _check_dataset(settings["dataset"])
    smallest = {"size": 1, "seed": 0, "n_jobs": -1, "batch_size": 1, "num_workers": 0, "examples": 0}
    for key, least in smallest.items():
        check_whole(key, settings[key], least=least)
    outdir = Path(settings["outdir"])
    name = _model_name(settings["model"])
    folder = outdir / name
    named = find_sets(settings, outdir)
    made_by = _made_by(settings)
    provenance = Provenance(folder, "made_by")
    if ranks.first:
        remedy = "set model.name to write beside it, or remove that folder"
        provenance.check(made_by, what="an evaluation", remedy=remedy)
    # Networks before images: what is wrong with them, or missing, must not show after hours.
    options = {key: settings[key] for key in ("refine", "refiner", "precision", "trust")}
    backend = load_backend(settings["model"], settings["device"], **options)
    share_limits(backend, ranks)
    kept = ("lpips_weights", "fid_weights", "segm_weights", "device")
    metrics: dict[str, Any] = {**switches, **{key: settings[key] for key in kept}}
    evaluator = make_measuring_evaluator(**metrics)
    # Settings that were refused made nothing: they must not stand in the way of the next start.
    sets = named
    if ranks.first:
        provenance.begin(made_by)
        sets = [draw_set(one, settings) for one in named]
    ranks.wait_for_first()
    made_of = [_predict(one, settings, backend, folder, made_by, ranks) for one in sets]
    warn_of_unrefined(backend, ranks)
    colours = 1 if image_channels(backend) <= 2 else 3  # alpha is not measured
    measured = [
        _measure(*pair, settings, evaluator, provenance, ranks, colours) for pair in zip(sets, made_of, strict=True)
    ]
    results = [one for one in measured if one is not None]
    if not ranks.first:
        return folder
    checkpoint = str(checkpoint_file(settings["model"]))
    origins = {one.name: one.origin for one in sets}
    history = {"checkpoint": checkpoint, **made_by, "name": name, "sets": origins, **_circumstances(settings)}
    write_tables(results, folder, history)
    paper = _paper(settings["paper"], results)
    notes = list(
        beside_paper(name, paper, {one.set.name: (len(one.images), totals(one)) for one in results}) if paper else ()
    )
    write_report(results, folder / "report.html", history, paper=paper, notes=notes, examples=settings["examples"])
    print("".join(f"{note}\n" for note in notes), end="")
    write_models_table(outdir, settings["table"])
    return folder


# ---- what is asked -------------------------------------------------------------------------------------------------


def _listed(value: Any) -> list[str]:
    """Texts in a list, of which the command line may give one by itself, or a folder called 2024 as a number."""
    given = [] if value is None else value if isinstance(value, list | tuple) else [value]
    return list(map(str, given))


def _check_dataset(dataset: Settings) -> None:
    if dataset["kind"] != "default":
        raise InputError(
            "dataset.kind: an evaluation reads images beside masks NAME_mask*.png, which is default, not "
            f"{dataset['kind']!r}; bin/predict.py knows the others"
        )
    check_known_keys(dataset, {"kind", *inspect.signature(InpaintingDataset).parameters} - {"datadir"}, where="dataset")


def _model_name(model: Settings) -> str:
    if model.get("name"):
        name = str(model["name"])
    else:
        checkpoint = Path(model["checkpoint"]).stem
        path = str(model["path"])
        place = Path(path.partition("#")[0] if is_address(path) else path).resolve()
        place = place.with_suffix("") if place.suffix in (".ckpt", ".pth", ".pt", ".safetensors", ".zip") else place
        name = place.name + ("" if checkpoint == "best" else f"_{checkpoint}")
    if name == "sets" or Path(name).name != name:
        raise InputError(f"model.name: {name!r} cannot be a folder's name here; choose another")
    return name


def _made_by(settings: Settings) -> dict[str, Any]:
    """What decides the predictions of a set: the checkpoint and the settings."""
    refiner = settings["refiner"] if settings["refine"] else None
    own = {"refiner": refiner, "precision": settings["precision"], "dataset": dict(settings["dataset"])}
    return origin(settings["model"], own)


# ---- the steps -----------------------------------------------------------------------------------------------------


def _predictions(folder: Path, one: EvaluationSet) -> Path:
    return folder / "predictions" / one.folder_name


def _predict(
    one: EvaluationSet, settings: Settings, backend: Backend, folder: Path, made_by: Settings, ranks: Ranks
) -> dict[str, Any]:
    """Predict what is not there yet; what decides the predictions: `made_by` and the set's content."""
    outdir = _predictions(folder, one)
    if ranks.first:
        print(f"predictions of {one.name}: {outdir}", flush=True)
    dataset_settings = {key: value for key, value in settings["dataset"].items() if key != "kind"}
    dataset = InpaintingDataset(one.folder, **dataset_settings)
    dataset.channels = image_channels(backend)
    digest = ranks.share(lambda: digest_of_files([*dataset.img_filenames, *dataset.mask_filenames], one.folder))
    made_of = {**made_by, "set": digest}
    if ranks.first and results_in(outdir).difference(made_of):
        raise InputError(
            f"{outdir} holds predictions of other images or masks than {one.folder} has now; remove it to predict "
            "anew, or set model.name or another outdir"
        )
    summary = predict_folder(
        backend,
        dataset,
        one.folder,
        outdir,
        batch_size=settings["batch_size"],
        one_size=settings["refine"],
        num_workers=settings["num_workers"],
        made_by=made_of,
        ranks=ranks,
    )
    if ranks.first and summary.skipped:
        raise InputError(f"{one.name}: {'; '.join(summary.skipped.values())}; mend or remove these images")
    return made_of


def _measure(
    one: EvaluationSet,
    made_of: Settings,
    settings: Settings,
    evaluator: InpaintingEvaluator,
    provenance: Provenance,
    ranks: Ranks,
    colours: int,
) -> SetResult | None:
    """Measure a set, unless `provenance` has what the same metrics said of the same predictions; None but at rank 0."""
    ranks.wait_for_first()  # which has waited for all predictions
    predictions = _predictions(provenance.folder, one)
    dataset = predicted_set(one.folder, predictions, settings["dataset"])
    dataset.channels = colours  # of the network, which turns colour images grey if it has one
    of_predictions = {
        **made_of,
        "predictions": ranks.share(lambda: digest_of_files(dataset.pred_filenames, predictions)),
        "switches": list(settings["metrics"]),
        "metrics": {name: metric.signature for name, metric in evaluator.metrics.items()},
        **({"channels": colours} if colours == 1 else {}),  # what was measured in colours before stays valid
    }
    measured = provenance.done.get(one.folder_name, {})
    known = ranks.share(lambda: measured.get("made_of") == of_predictions)
    if ranks.first:
        print(f"metrics of {one.name}{': measured before' if known else ''}", flush=True)
    if not known:
        workload = {key: settings[key] for key in ("batch_size", "num_workers")}
        measurement = measure_predictions(evaluator, dataset, ranks=ranks, **workload)
        if measurement is not None:
            measured = {"made_of": of_predictions, **measurement.as_json()}
            provenance.add(one.folder_name, measured)
    if not ranks.first:
        return None
    measurement = Measurement.from_json(measured)
    digest = _digest_as_measured(made_of["set"], settings["dataset"].get("scale_factor"), colours)
    return SetResult(one, measurement.results, measurement.images, dataset, digest)


def _digest_as_measured(digest: str, scale_factor: float | None, colours: int) -> str:
    """What values that compare share: the digest of a set's files or, where they were scaled or made grey, of that."""
    if scale_factor in (None, 1) and colours == 3:
        return digest
    return hashlib.sha256(f"{digest} {float(scale_factor or 1)} {colours}".encode()).hexdigest()


# ---- what comes out ------------------------------------------------------------------------------------------------


def _paper(paper: str | None, results: Sequence[SetResult]) -> str | None:
    """The data set of the paper to show; `auto`: that of the size of all images of the sets that the paper has."""
    if paper != "auto":
        return paper
    sizes = set()
    for one in results:
        if published_name(one.set.name):
            for file in one.dataset.pred_filenames:
                with Image.open(file) as image:
                    sizes.add(image.size)
    return dataset_of(sizes)


def write_tables(results: Sequence[SetResult], folder: Path, history: Mapping[str, Any]) -> None:
    """`results.csv` (a row a set, metric and group), `images.csv` (a row a set and image), `results.json`."""
    import pandas

    rows = [
        {"set": one.set.name, "metric": metric, "group": group, **statistics}
        for one in results
        for (metric, group), statistics in one.results.items()
    ]
    table = pandas.DataFrame(rows, columns=["set", "metric", "group", "mean", "std"])
    write_whole(folder / "results.csv", table.to_csv(sep="\t", index=False, float_format=number_text))
    images = pandas.concat({one.set.name: one.images for one in results}, names=["set"]).reset_index("set")
    write_whole(folder / "images.csv", images.to_csv(sep="\t", index=False, float_format="%.6f"))
    sets = {}
    for one in results:
        place = str(one.set.folder.resolve())
        of = {"folder": place, "digest": one.digest, "images": len(one.images)}
        sets[one.set.name] = {**of, "results": _nested(one.results)}
    write_whole(folder / "results.json", json.dumps({"made_by": history, "sets": sets}, indent=1, allow_nan=False))


def _nested(results: Results) -> dict[str, dict[str, dict[str, float | None]]]:
    """None, `null` in JSON, which has no NaN, where there was nothing to measure."""
    nested: dict[str, dict[str, dict[str, float | None]]] = {}
    for (metric, group), statistics in results.items():
        values = {name: float(value) if math.isfinite(value) else None for name, value in statistics.items()}
        nested.setdefault(metric, {})[group] = values
    return nested


def _circumstances(settings: Settings) -> dict[str, Any]:
    device = pick_device(settings["device"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    installed = {one.name: one.version for one in importlib.metadata.distributions() if one.name in PACKAGES}
    return {
        "device": f"{device.type} ({name})",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **installed},
        "settings": settings_without_secrets(settings),
    }


def _commit() -> str:
    """The commit of this code, `-dirty` if files were changed since; `unknown` outside a repository."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
