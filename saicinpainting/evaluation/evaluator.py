"""The official path of the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from saicinpainting.data.pairs import batches_of_equal_size
from saicinpainting.io.device import move_to_device, pick_device
from saicinpainting.metrics import evaluator
from saicinpainting.metrics.base import TOTAL, ImageMetric
from saicinpainting.metrics.evaluator import INTEGRALS, bin_label, fid100_f1, hole_share_bins

__all__ = ["InpaintingEvaluator", "InpaintingEvaluatorOnline", "lpips_fid100_f1", "ssim_fid100_f1"]

Metrics = Mapping[tuple[str, str], Mapping[str, float]]


def ssim_fid100_f1(metrics: Metrics, fid_scale: float = 100) -> float:
    """From `{("ssim", "total"): {"mean": …}, ("fid", "total"): {"mean": …}}`."""
    return _integral("ssim_fid100_f1", metrics, fid_scale)


def lpips_fid100_f1(metrics: Metrics, fid_scale: float = 100) -> float:
    """From `{("lpips", "total"): {"mean": …}, ("fid", "total"): {"mean": …}}`."""
    return _integral("lpips_fid100_f1", metrics, fid_scale)


def _integral(name: str, metrics: Metrics, fid_scale: float) -> float:
    metric, to_quality = INTEGRALS[name]
    fid = metrics[("fid", "total")]["mean"] * 100 / fid_scale
    return fid100_f1(to_quality(metrics[(metric, "total")]["mean"]), fid)


class InpaintingEvaluatorOnline(evaluator.InpaintingEvaluator):
    """The official way to evaluate: called with every batch, then asked for the results once.

    Args:
        scores: metrics by name, such as `evaluation.losses.base_loss.SSIMScore()`; one's own are called, asked by
            `get_value` and `reset`, as `EvaluatorScore` says.
        bins: groups of images by the share of the hole.
        image_key, inpainted_key: of a batch, (B, 3, H, W) in [0, 1]; it has `mask` (B, 1, H, W) too.
        integral_func, integral_title: a score of all results, such as `ssim_fid100_f1`, and its name.
        clamp_image_range: least and largest value of what is measured.
    """

    def __init__(
        self,
        scores: Mapping[str, Any],
        bins: int = 10,
        image_key: str = "image",
        inpainted_key: str = "inpainted",
        integral_func: Callable[[Any], float] | None = None,
        integral_title: str | None = None,
        clamp_image_range: tuple[float, float] | None = None,
    ) -> None:
        metrics = {name: score for name, score in scores.items() if isinstance(score, ImageMetric)}
        super().__init__(metrics=metrics, bins=bins, inpainted_key=inpainted_key, integral_kind=None)
        self.others: Any = nn.ModuleDict({name: score for name, score in scores.items() if name not in metrics})
        self.groups: list[int] = []
        self.image_key, self.clamp_image_range = image_key, clamp_image_range
        self.integral_func, self.integral_title = integral_func, integral_title

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Add a batch; what scores of one's own made of it."""
        image, inpainted = batch[self.image_key], batch[self.inpainted_key]
        if self.clamp_image_range is not None:
            image, inpainted = image.clamp(*self.clamp_image_range), inpainted.clamp(*self.clamp_image_range)
        self.update({**batch, "image": image, self.inpainted_key: inpainted})
        if self.others:
            self.groups += hole_share_bins(batch["mask"], self.bins).tolist()  # waits for the device
        return {name: score(inpainted, image, batch["mask"]) for name, score in self.others.items()}

    process_batch = forward

    def reset(self) -> None:
        super().reset()
        self.groups = []
        for score in self.others.values():
            score.reset()

    def evaluation_end(self, states: Any = None) -> Any:
        """The results of all batches so far; the next batch begins anew."""
        results: Any = self.compute()
        for name, score in self.others.items():
            own = None if states is None else [state[name] for state in states]
            results[name, TOTAL], by_group = score.get_value(groups=np.array(self.groups), states=own)
            results |= {(name, bin_label(group, self.bins)): value for group, value in by_group.items()}
        self.reset()
        if self.integral_func is not None:
            results[self.integral_title or "integral", TOTAL] = {"mean": self.integral_func(results)}
        return results


class InpaintingEvaluator:
    """The official way to measure a data set at once.

    Args:
        dataset: samples with `image` and, without a model, `inpainted` (3, H, W) in [0, 1], and `mask` (1, H, W).
        scores, bins, integral_func, integral_title, clamp_image_range: as for `InpaintingEvaluatorOnline`.
        area_grouping: measure groups of images by the share of the hole, too.
        batch_size: images at once; those of one size are.
        device: as in configs, `auto`, `cpu`, `cuda`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        scores: Mapping[str, Any],
        area_grouping: bool = True,
        bins: int = 10,
        batch_size: int = 32,
        device: str = "auto",
        integral_func: Callable[[Any], float] | None = None,
        integral_title: str | None = None,
        clamp_image_range: tuple[float, float] | None = None,
    ) -> None:
        self.dataset, self.area_grouping, self.batch_size = dataset, area_grouping, batch_size
        self.device = pick_device(device)
        self.online = InpaintingEvaluatorOnline(
            scores,
            bins=bins,
            integral_func=integral_func,
            integral_title=integral_title,
            clamp_image_range=clamp_image_range,
        )

    def evaluate(self, model: Callable[[Any, Any], Any] | None = None) -> Any:
        """`{(score, group): statistics}`; model(image, mask) fills what has no `inpainted`."""
        self.online.to(self.device).reset()
        samples = (self.dataset[i] for i in range(len(self.dataset)))  # type: ignore[arg-type]
        for listed in batches_of_equal_size(samples, self.batch_size, lambda sample: sample["image"].shape):
            batch = move_to_device(default_collate(listed), self.device)
            if model is not None:
                with torch.no_grad():
                    batch["inpainted"] = model(batch["image"], batch["mask"])
            self.online(batch)
        results = self.online.evaluation_end()
        totals = {key: value for key, value in results.items() if key[1] == "total"}
        return results if self.area_grouping else totals
