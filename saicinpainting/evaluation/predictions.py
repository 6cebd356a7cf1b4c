"""Measure a folder of predictions."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Subset, default_collate

from saicinpainting.config import CONFIGS, published_config
from saicinpainting.data.naming import some
from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset, batches_of_equal_size, plan_batches
from saicinpainting.io.device import move_to_device, pick_device
from saicinpainting.io.files import set_up_reader
from saicinpainting.io.ranks import Progress, Ranks
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.metrics import METRICS, make_metrics
from saicinpainting.metrics.base import TOTAL
from saicinpainting.metrics.evaluator import InpaintingEvaluator, Results, bin_label
from saicinpainting.utils import InputError, call_with_settings, check_known_keys, check_whole, did_you_mean

if TYPE_CHECKING:
    import pandas

LOGGER = logging.getLogger(__name__)
EVALUATOR_KEYS = (
    *METRICS, "lpips_weights", "fid_weights", "segm_weights", "integral_kind", "bins", "device", "batch_size",
    "num_workers",
)  # fmt: skip
"""Of the section `evaluator_kwargs`."""


def evaluate_predictions(
    config: Mapping[str, Mapping[str, Any]],
    datadir: str | Path,
    predictdir: str | Path,
    **overrides: Any,
) -> Results:
    """Measure the predictions in `predictdir` for the images and masks in `datadir`.

    config: `dataset_kwargs` of `PrecomputedInpaintingResultsDataset`, and `evaluator_kwargs` of
    `make_measuring_evaluator` and `measure_predictions`, see configs/eval2_gpu.yaml; overrides: of the latter.
    """
    dataset = call_with_settings(
        PrecomputedInpaintingResultsDataset,
        {**config["dataset_kwargs"], "datadir": datadir, "predictdir": predictdir},
        where="dataset_kwargs",
    )
    settings = {**config["evaluator_kwargs"], **overrides}
    check_known_keys(settings, EVALUATOR_KEYS, where="evaluator_kwargs")
    workload = {key: settings.pop(key) for key in ("batch_size", "num_workers") if key in settings}
    evaluator = make_measuring_evaluator(**settings)
    measurement = measure_predictions(evaluator, dataset, **workload)
    assert measurement is not None  # of one process
    return measurement.results


def predicted_set(folder: Path, predictions: Path, settings: Mapping[str, Any]) -> PrecomputedInpaintingResultsDataset:
    """A set with the predictions of a model that read it by the `dataset` of configs/evaluation; without padding."""
    own = {key: value for key, value in settings.items() if key not in ("kind", "pad_out_to_modulo")}
    return PrecomputedInpaintingResultsDataset(folder, predictions, inpainted_suffix=".png", **own)


def image_names(dataset: PrecomputedInpaintingResultsDataset) -> list[str]:
    """What tables call the images: the masks' names, as paths from the set's folder or that of the masks."""
    files = zip(dataset.names, dataset.mask_filenames, strict=True)
    return [Path(name + os.path.splitext(mask)[1]).as_posix() for name, mask in files]


@dataclass(frozen=True)
class Measurement:
    """results: by metric and group. images: a row an image in the set's order, a column a metric with values."""

    results: Results
    images: pandas.DataFrame

    def as_json(self) -> dict[str, Any]:
        """Numbers and texts in lists, for a file."""
        results = [[*key, statistics] for key, statistics in self.results.items()]
        return {"results": results, "images": self.images.to_dict("list")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measurement:
        """What `as_json` made: every number comes back the same."""
        import pandas

        results = {(metric, group): statistics for metric, group, statistics in content["results"]}
        return cls(results, pandas.DataFrame(content["images"]))


def make_measuring_evaluator(
    *, integral_kind: str | None = "lpips_fid100_f1", bins: int = 10, device: str | None = "auto", **metrics: Any
) -> InpaintingEvaluator:
    """An evaluator on `device`: `auto`, `cpu`, `cuda`, ….

    Args:
        integral_kind: the evaluator's: None leaves the integrals out, others report all that the metrics allow.
        metrics: switches and weights, the arguments of `make_metrics`.
    """
    check_whole("evaluator_kwargs.bins", bins, least=1)
    try:
        made = make_metrics(**metrics)
    except InputError as error:
        raise InputError(f"{error}, or leave that metric out") from error
    return InpaintingEvaluator(metrics=made, integral_kind=integral_kind, bins=bins).to(pick_device(device))


def measure_predictions(
    evaluator: InpaintingEvaluator,
    dataset: PrecomputedInpaintingResultsDataset,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    ranks: Ranks | None = None,
) -> Measurement | None:
    """All metrics of `evaluator`, which forgets what it saw before, in one pass over `dataset`.

    Images of different sizes are legal: a batch ends where the size changes.

    ranks: the processes that share the batches; all of them call this, and rank 0 gets the measurement.
    """
    ranks = ranks or Ranks()
    check_whole("evaluator_kwargs.batch_size", batch_size, least=1)
    check_whole("evaluator_kwargs.num_workers", num_workers)
    evaluator.reset()
    device = next((metric.device for metric in evaluator.metrics.values()), torch.device("cpu"))
    sizes: list[tuple[int, int]] = []
    batches = ranks.mine(ranks.share(lambda: plan_batches(dataset.img_filenames, batch_size, dataset.size_of_sample)))
    numbers = [number for batch in batches for number in batch]
    samples = iter(
        DataLoader(Subset(dataset, numbers), batch_size=None, num_workers=num_workers, worker_init_fn=set_up_reader)
    )
    with Progress(ranks, len(dataset), "evaluate") as progress:
        for planned in batches:
            read = itertools.islice(samples, len(planned))
            for batch in batches_of_equal_size(read, batch_size, lambda sample: sample["image"].shape):
                evaluator.update(move_to_device(default_collate(batch), device))
                progress.update(len(batch))
                sizes += [tuple(sample.get("unpad_to_size", sample["image"].shape[1:])) for sample in batch]
        if ranks.count > 1:
            sizes = _gather(evaluator, numbers, sizes, ranks, progress)
    if not ranks.first:
        return None
    _warn_of_small(dataset, sizes, evaluator)
    results = evaluator.compute()
    for name, reason in _without_result(evaluator, results).items():
        LOGGER.warning("%s: none, %s", name, reason)
        results[name, f"none: {reason}"] = {}  # a row without numbers, so that tables say why there are none
    return Measurement(results, _by_image(dataset, evaluator))


def _gather(
    evaluator: InpaintingEvaluator,
    numbers: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    ranks: Ranks,
    progress: Progress,
) -> list[tuple[int, int]]:
    """Give rank 0's `evaluator` the rows of all images in the order of their `numbers`; their sizes."""
    rows = {name: metric.gathered_rows() for name, metric in evaluator.metrics.items()}
    shares: list[dict[str, Any]] = ranks.gather(
        {"numbers": list(numbers), "sizes": list(sizes), "rows": rows}, progress
    )
    order = torch.tensor([number for share in shares for number in share["numbers"]]).argsort()
    for name, metric in evaluator.metrics.items() if shares else ():
        joined = {row: torch.cat([share["rows"][name][row] for share in shares])[order] for row in rows[name]}
        metric.reset()
        metric.append(joined, joined.pop("groups"))
    in_turn = [size for share in shares for size in share["sizes"]]
    return [in_turn[place] for place in order.tolist()]


def _without_result(evaluator: InpaintingEvaluator, results: Results) -> dict[str, str]:
    """Why there is no result over all images, by metric."""
    return {
        name: f"it needs {metric.least_images} images"
        for name, metric in evaluator.metrics.items()
        if (name, TOTAL) not in results and metric.least_images > 1
    }


def _warn_of_small(
    dataset: PrecomputedInpaintingResultsDataset, sizes: Sequence[tuple[int, int]], evaluator: InpaintingEvaluator
) -> None:
    for metric, least in ((name, metric.least_side) for name, metric in evaluator.metrics.items()):
        small = [file for file, size in zip(dataset.img_filenames, sizes, strict=True) if min(size) < least]
        if small:
            LOGGER.warning(
                "%s: %d images are too small for it, under %d pixels, and measured continued by their last rows and "
                "columns: %s",
                metric,
                len(small),
                least,
                some(small),
            )


def _by_image(dataset: PrecomputedInpaintingResultsDataset, evaluator: InpaintingEvaluator) -> pandas.DataFrame:
    import pandas

    columns: dict[str, Any] = {"image": image_names(dataset)}
    for name, metric in evaluator.metrics.items():
        rows = metric.gathered_rows()
        columns.setdefault("hole", [bin_label(group, evaluator.bins) for group in rows["groups"].tolist()])
        if "values" in rows:
            columns[name] = rows["values"].double().numpy()
    return pandas.DataFrame(columns)


def metric_switches(names: str | Sequence[str], *, where: str = "--metrics") -> dict[str, bool]:
    """`ssim,fid` or a list of them -> {"ssim": True, "lpips": False, "fid": True, …}; where: what errors call it."""
    listed = names.split(",") if isinstance(names, str) else names or ()
    chosen = [str(name).strip() for name in listed if str(name).strip()]
    if not chosen:
        raise InputError(f"{where}: nothing to measure; known: {', '.join(METRICS)}")
    for name in chosen:
        if name not in METRICS:
            raise InputError(f"{where}: unknown metric {name!r}; {did_you_mean(name, METRICS)}")
    return {name: name in chosen for name in METRICS}


def read_evaluation_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """A file like configs/eval2_gpu.yaml; both sections may be absent. `configs/…` is found from any folder.

    The official section `segmentation` becomes `segm` and `segm_weights` of `evaluator_kwargs`.
    """
    sections: dict[str, dict[str, Any]] = {"evaluator_kwargs": {}, "dataset_kwargs": {}, "segmentation": {}}
    try:
        content = read_yaml(published_config(Path(path))) or {}
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the evaluation config ({error.strerror}); {CONFIGS} holds eval2*.yaml"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected the sections evaluator_kwargs and dataset_kwargs, got {content!r}")
    for name, section in content.items():
        if name not in sections:
            raise InputError(f"{path}: {name}: unknown config key; {did_you_mean(str(name), sections)}")
        if section is not None and not isinstance(section, dict):
            raise InputError(f"{path}: {name}: expected settings, one a line, got {section!r}")
        sections[name] = section or {}
    segmentation = sections.pop("segmentation")
    check_known_keys(segmentation, ("enable", "weights_path"), where="segmentation")
    if segmentation.get("enable"):
        given = {"segm": True, "segm_weights": segmentation.get("weights_path")}
        if given["segm_weights"] in ("$TORCH_HOME", "${TORCH_HOME}"):
            given["segm_weights"] = None  # then they are there
        sections["evaluator_kwargs"] = {**given, **sections["evaluator_kwargs"]}
    return sections
