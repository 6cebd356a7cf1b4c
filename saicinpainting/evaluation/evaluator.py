"""The official path of the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The official protocol of an evaluator: called with every batch, then asked for the results once.

    Args:
        scores: metrics by name, such as `saicinpainting.metrics.SSIMScore()`.
        settings: those of `InpaintingEvaluator`.
    """

    def __init__(self, scores: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(metrics=dict(scores), **{"integral_kind": None, **settings})

    def forward(self, batch: Mapping[str, Any]) -> None:
        """batch: `image`, `mask` and what `inpainted_key` names."""
        self.update(batch)

    def evaluation_end(self, states: Any = None) -> Any:
        """The results of all batches so far; the next batch begins anew."""
        results = self.compute()
        self.reset()
        return results
