"""The official path of the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saicinpainting.metrics.evaluator import INTEGRALS, InpaintingEvaluator, fid100_f1

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


class InpaintingEvaluatorOnline(InpaintingEvaluator):
    """The official way to evaluate: called with every batch, then asked for the results once.

    Args:
        scores: metrics by name, such as `saicinpainting.metrics.SSIMScore()`.
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
        super().__init__(metrics=dict(scores), bins=bins, inpainted_key=inpainted_key, integral_kind=None)
        self.image_key, self.clamp_image_range = image_key, clamp_image_range
        self.integral_func, self.integral_title = integral_func, integral_title

    def forward(self, batch: Mapping[str, Any]) -> None:
        image, inpainted = batch[self.image_key], batch[self.inpainted_key]
        if self.clamp_image_range is not None:
            image, inpainted = image.clamp(*self.clamp_image_range), inpainted.clamp(*self.clamp_image_range)
        self.update({**batch, "image": image, self.inpainted_key: inpainted})

    def evaluation_end(self, states: Any = None) -> Any:
        """The results of all batches so far; the next batch begins anew."""
        results = self.compute()
        self.reset()
        if self.integral_func is not None:
            results[self.integral_title or "integral", "total"] = {"mean": self.integral_func(results)}
        return results
