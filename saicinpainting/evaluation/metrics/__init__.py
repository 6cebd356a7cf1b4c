"""Metrics of inpainting: SSIM, LPIPS, FID."""

from __future__ import annotations

from pathlib import Path

from saicinpainting.evaluation.metrics.base import ImageMetric
from saicinpainting.evaluation.metrics.fid import FIDScore
from saicinpainting.evaluation.metrics.lpips import LPIPSScore
from saicinpainting.evaluation.metrics.ssim import SSIMScore

__all__ = ["METRICS", "FIDScore", "ImageMetric", "LPIPSScore", "SSIMScore", "make_metrics"]

METRICS = ("ssim", "lpips", "fid")


def make_metrics(
    *,
    ssim: bool = True,
    lpips: bool = True,
    fid: bool = True,
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
) -> dict[str, ImageMetric]:
    """The metrics that are switched on, by name."""
    metrics: dict[str, ImageMetric] = {}
    if ssim:
        metrics["ssim"] = SSIMScore()
    if lpips:
        metrics["lpips"] = LPIPSScore(weights_path=lpips_weights)
    if fid:
        metrics["fid"] = FIDScore(weights_path=fid_weights)
    return metrics
