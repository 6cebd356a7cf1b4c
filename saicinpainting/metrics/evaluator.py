"""Metrics over all images and over bins of hole share, and the tables they end up in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from saicinpainting.io.files import write_whole
from saicinpainting.io.memory import Attempts
from saicinpainting.metrics import SEGMENTATION, make_metrics
from saicinpainting.metrics.base import TOTAL, ImageMetric, NetworkMetric, Statistics
from saicinpainting.networks.inputs import as_rgb
from saicinpainting.utils import InputError, build, check_bool, did_you_mean

if TYPE_CHECKING:
    import pandas

# (metric, group) -> statistics; the group is `total` or a bin such as `10-20%`.
Results = dict[tuple[str, str], Statistics]


def fid100_f1(quality: float, fid: float) -> float:
    """F1-like mean of a quality in [0, 1], higher is better, and FID, of which 100 and more count as 0."""
    closeness = max(0.0, 100 - fid) / 100
    return 2 * quality * closeness / (quality + closeness + 1e-3)


# name -> (metric it joins with FID, that metric's mean -> quality)
INTEGRALS: dict[str, tuple[str, Callable[[float], float]]] = {
    "ssim_fid100_f1": ("ssim", lambda ssim: ssim),
    "lpips_fid100_f1": ("lpips", lambda lpips: 1 - lpips),
}


class InpaintingEvaluator(nn.Module):
    """Metrics of inpainted images, over all of them and over `bins` equal bins of hole share.

    `integral_kind`: None reports no integral. A name of `INTEGRALS`, by which the run is judged, reports all of
    them whose metrics are measured, that one or not.

    `costly_every`: measure LPIPS and FID, which need networks of their own, only in rounds 0, n, 2n, …; the caller
    counts `round`.

    Under DDP `compute()` covers the images of all ranks; every rank must call it. The evaluator adds nothing to
    checkpoints.
    """

    def __init__(
        self,
        *,
        metrics: Mapping[str, ImageMetric],
        inpainted_key: str = "inpainted",
        integral_kind: str | None = "ssim_fid100_f1",
        bins: int = 10,
        costly_every: int = 1,
    ) -> None:
        super().__init__()
        if costly_every < 1:
            raise InputError(f"evaluator.costly_every: expected 1 or more, got {costly_every}")
        if integral_kind is not None and integral_kind not in INTEGRALS:
            raise InputError(
                f"evaluator.integral_kind: unknown kind {integral_kind!r}; {did_you_mean(integral_kind, INTEGRALS)}"
            )
        self.metrics = cast(Mapping[str, ImageMetric], nn.ModuleDict(metrics))
        self.inpainted_key, self.integral_kind, self.bins = inpainted_key, integral_kind, bins
        self.costly_every, self.round = costly_every, 0
        self._attempts = Attempts()

    @property
    def postpones(self) -> bool:
        """Whether this round leaves out what is costly."""
        return self.round % self.costly_every != 0

    def _due(self) -> dict[str, ImageMetric]:
        """The metrics of this round."""
        return {n: m for n, m in self.metrics.items() if not (self.postpones and isinstance(m, NetworkMetric))}

    @torch.no_grad()
    def update(self, batch: Mapping[str, Any]) -> None:
        """Add a batch: `image` and `inpainted_key` (B, C, H, W) in [0, 1], `mask` (B, 1, H, W), 1 = hole.

        One channel is repeated to three; of other numbers than these LPIPS and FID make nothing.

        Padding that `unpad_to_size` tells of is not measured.
        """
        parts = list(self._unpadded_parts(batch))
        in_order = torch.tensor([place for _, places in parts for place in places]).argsort()
        groups = torch.cat([hole_share_bins(images["mask"], self.bins) for images, _ in parts])[in_order]
        for metric in self._due().values():
            rows = {
                row: torch.cat([self._measured(metric, row, images) for images, _ in parts])[in_order]
                for row in metric.rows
            }
            metric.append(rows, groups)

    def _measured(self, metric: ImageMetric, row: str, images: Mapping[str, Tensor]) -> Tensor:
        """Row `row` of `images`; by halves where the memory is too small."""
        count, height, width = len(images["mask"]), *images["mask"].shape[2:]
        rows = self._attempts.attempt(count, height * width, lambda: metric.measured(row, images))
        if rows is not None:
            return rows
        if count == 1:
            raise InputError(
                f"out of memory: {type(metric).__name__} cannot measure an image of {width} x {height} pixels on "
                f"{metric.device}; free memory, set device=cpu, or leave that metric out"
            )
        halves = (slice(count // 2), slice(count // 2, None))
        parts = [{name: tensor[half] for name, tensor in images.items()} for half in halves]
        return torch.cat([self._measured(metric, row, part) for part in parts])

    def compute(self) -> Results:
        """Mean and std of each metric; FID and the integrals have no std. Groups without images are left out."""
        results: Results = {}
        for name, metric in self._due().items():
            with warnings.catch_warnings():
                # A rank without images must call `compute` too, or the others would wait for it.
                warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
                by_group = metric.compute()
            for group, statistics in by_group.items():
                label = group if isinstance(group, str) else bin_label(group, self.bins)
                own = {part: value for part, value in statistics.items() if part in ("mean", "std")}
                results[name, label] = own
                # What else a metric gets from its rows are scores of their own.
                results |= {(score, label): {"mean": v} for score, v in statistics.items() if score not in own}
        return {**results, **self._integrals(results), **self._by_class()}

    def _by_class(self) -> Results:
        if SEGMENTATION not in self._due():
            return {}
        from saicinpainting.metrics.segmentation import class_results

        return class_results({name: metric.gathered_rows() for name, metric in self.metrics.items()})

    def reset(self) -> None:
        """Forget the images."""
        for metric in self.metrics.values():
            metric.reset()

    def _integrals(self, results: Results) -> Results:
        """The integrals over all images whose metrics were computed."""
        if self.integral_kind is None or ("fid", TOTAL) not in results:
            return {}
        fid = results["fid", TOTAL]["mean"]
        return {
            (name, TOTAL): {"mean": fid100_f1(quality(results[part, TOTAL]["mean"]), fid)}
            for name, (part, quality) in INTEGRALS.items()
            if (part, TOTAL) in results
        }

    def _unpadded_parts(self, batch: Mapping[str, Any]) -> Iterator[tuple[dict[str, Tensor], list[int]]]:
        """The metrics' inputs and their places in the batch, split where sizes differ without padding."""
        if self.inpainted_key not in batch:
            known = did_you_mean(self.inpainted_key, batch)
            raise InputError(f"evaluator.inpainted_key={self.inpainted_key}: no such images; {known}")
        inputs = {"pred": as_rgb(batch[self.inpainted_key]), "target": as_rgb(batch["image"]), "mask": batch["mask"]}
        if "unpad_to_size" not in batch:
            yield inputs, list(range(len(inputs["mask"])))
            return
        heights, widths = (torch.as_tensor(side).reshape(-1).tolist() for side in batch["unpad_to_size"])
        sizes = list(zip(heights, widths, strict=True))
        for height, width in dict.fromkeys(sizes):
            chosen = [i for i, size in enumerate(sizes) if size == (height, width)]
            yield {name: tensor[chosen, :, :height, :width] for name, tensor in inputs.items()}, chosen


def hole_share_bins(mask: Tensor, bins: int) -> Tensor:
    """Bin of each image's hole share, (B,) int64; mask: (B, 1, H, W), 1 = hole. Bin i is [i, i + 1) / bins."""
    holes = (mask > 0.5).flatten(1).sum(dim=1)
    # In integers, so that a share of exactly 70% is not in the bin below by rounding.
    return (holes * bins // mask[0].numel()).clamp(max=bins - 1)


def bin_label(index: int, bins: int) -> str:
    """`10-20%` for bin 1 of 10; with as many decimals as tell the bins apart."""
    decimals = max(1, len(str(bins - 1)) - 2)
    low, high = (round(100 * edge / bins, decimals) for edge in (index, index + 1))
    return f"{low:.12g}-{high:.12g}%"


def results_table(results: Mapping[tuple[str, str], Mapping[str, float]]) -> pandas.DataFrame:
    """Rows (metric, group), columns mean and std, NaN where there is no std."""
    import pandas

    index = pandas.MultiIndex.from_tuples(list(results), names=["metric", "group"])
    return pandas.DataFrame(list(results.values()), index=index, columns=["mean", "std"], dtype=float)


def write_results_csv(results: Mapping[tuple[str, str], Mapping[str, float]], path: str | Path) -> None:
    """Tab-separated; makes the folder of `path`."""
    write_whole(Path(path), results_table(results).to_csv(sep="\t", float_format=number_text))


def number_text(value: float) -> str:
    """Four decimals, six below 0.01, where KID is."""
    return f"{value:.6f}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def make_evaluator(kind: str = "default", **settings: Any) -> InpaintingEvaluator:
    """The evaluator that the config group `evaluator` describes; see `_default_evaluator` for its settings."""
    return build(EVALUATORS, {"kind": kind, **settings}, where="evaluator", interface=InpaintingEvaluator)


def _default_evaluator(
    *,
    ssim: bool = True,
    lpips: bool = True,
    fid: bool = True,
    kid: bool = False,
    ids: bool = False,
    psnr: bool = False,
    l1: bool = False,
    costly_every: int = 1,
    inpainted_key: str = "inpainted",
    integral_kind: str | None = "ssim_fid100_f1",
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> InpaintingEvaluator:
    """The metrics of `inpainted_key` that are switched on, and their integrals; `integral_kind=None` leaves these out.

    `kid`, `ids`: KID, P-IDS and U-IDS, of FID's features; `psnr`, `l1`: of the image and of the hole; `costly_every`:
    LPIPS and FID at every so many-th validation. `lpips_weights`, `fid_weights`: files or addresses of the metrics'
    networks, which are downloaded otherwise.
    """
    switches: dict[str, Any] = {
        "ssim": ssim, "lpips": lpips, "fid": fid, "kid": kid, "ids": ids, "psnr": psnr, "l1": l1,
    }  # fmt: skip
    for name, value in switches.items():
        check_bool(f"evaluator.{name}", value)
    for name in ("kid", "ids"):
        if switches[name] and not fid:
            raise InputError(f"evaluator.{name}: computed from FID's features; set evaluator.fid=true")
    try:
        metrics = make_metrics(**switches, lpips_weights=lpips_weights, fid_weights=fid_weights)
    except InputError as error:
        raise InputError(f"{error}, or switch it off with evaluator.lpips=false evaluator.fid=false") from error
    for name, metric in (extra or {}).items():
        if name in metrics:
            raise InputError(f"evaluator.extra.{name}: there is a metric of this name; choose another")
        metrics[name] = build({}, metric, where=f"evaluator.extra.{name}", interface=ImageMetric)
    return InpaintingEvaluator(
        metrics=metrics, inpainted_key=inpainted_key, integral_kind=integral_kind, costly_every=costly_every
    )


EVALUATORS = {"default": _default_evaluator}
