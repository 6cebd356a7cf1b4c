"""Measuring a folder of predictions, as bin/evaluate_predicts.py does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from saicinpainting.evaluation.data import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation.evaluator import InpaintingEvaluator, Results
from saicinpainting.evaluation.metrics import METRICS, make_metrics
from saicinpainting.evaluation.utils import move_to_device, pick_device
from saicinpainting.utils import InputError, call_with_settings, did_you_mean

LOGGER = logging.getLogger(__name__)


def evaluate_predictions(
    config: Mapping[str, Mapping[str, Any]],
    datadir: str | Path,
    predictdir: str | Path,
    **overrides: Any,
) -> Results:
    """Measure the predictions in `predictdir` for the images and masks in `datadir`.

    `config`: `dataset_kwargs` of `PrecomputedInpaintingResultsDataset` and `evaluator_kwargs` of
    `measure_dataset`, see configs/eval2_gpu.yaml; `overrides` replace entries of the latter.
    """
    dataset = call_with_settings(
        PrecomputedInpaintingResultsDataset,
        {**config["dataset_kwargs"], "datadir": datadir, "predictdir": predictdir},
        where="dataset_kwargs",
    )
    settings = {**config["evaluator_kwargs"], **overrides, "dataset": dataset}
    return call_with_settings(measure_dataset, settings, where="evaluator_kwargs")


def measure_dataset(
    dataset: PrecomputedInpaintingResultsDataset,
    *,
    ssim: bool = True,
    lpips: bool = True,
    fid: bool = True,
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
    integral_kind: str | None = "lpips_fid100_f1",
    bins: int = 10,
    batch_size: int = 8,
    device: str | None = "auto",
    num_workers: int = 0,
) -> Results:
    """All metrics in one pass over `dataset`; `device` is `auto`, `cpu`, `cuda`, ….

    `integral_kind` is the evaluator's: None leaves the integrals out, the other kinds report all that the
    metrics allow.

    Images of different sizes are legal: a batch ends where the size changes.
    """
    try:
        metrics = make_metrics(ssim=ssim, lpips=lpips, fid=fid, lpips_weights=lpips_weights, fid_weights=fid_weights)
    except InputError as error:
        raise InputError(f"{error}, or leave it out, for example with --metrics ssim") from error
    if batch_size < 1:
        raise InputError(f"evaluator_kwargs.batch_size: expected at least 1, got {batch_size}")
    chosen = pick_device(device)
    evaluator = InpaintingEvaluator(metrics=metrics, integral_kind=integral_kind, bins=bins).to(chosen)
    samples = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    with tqdm(total=len(dataset), desc="evaluate", unit="image") as progress:
        for batch in batches_of_equal_size(samples, batch_size):
            evaluator.update(move_to_device(batch, chosen))
            progress.update(len(batch["image"]))
    return evaluator.compute()


def batches_of_equal_size(samples: Iterable[Mapping[str, Any]], batch_size: int) -> Iterator[Mapping[str, Any]]:
    """Collate up to `batch_size` successive samples whose images have the same size, in order."""
    waiting: list[Mapping[str, Any]] = []
    for sample in samples:
        full = len(waiting) == batch_size
        if waiting and (full or sample["image"].shape != waiting[0]["image"].shape):
            yield default_collate(waiting)
            waiting = []
        waiting.append(sample)
    if waiting:
        yield default_collate(waiting)


def metric_switches(names: str) -> dict[str, bool]:
    """`ssim,fid` -> {"ssim": True, "lpips": False, "fid": True}."""
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in METRICS:
            raise InputError(f"--metrics: unknown metric {name!r}; {did_you_mean(name, METRICS)}")
    return {name: name in chosen for name in METRICS}


def read_evaluation_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """A file like configs/eval2_gpu.yaml; both sections may be absent."""
    sections: dict[str, dict[str, Any]] = {"evaluator_kwargs": {}, "dataset_kwargs": {}}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{path}: cannot read the evaluation config ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected the sections {' and '.join(sections)}, got {content!r}")
    for name, section in content.items():
        if name not in sections:
            raise InputError(f"{path}: {name}: unknown config key; {did_you_mean(str(name), sections)}")
        if section is not None and not isinstance(section, dict):
            raise InputError(f"{path}: {name}: expected settings, one a line, got {section!r}")
        sections[name] = section or {}
    return sections
