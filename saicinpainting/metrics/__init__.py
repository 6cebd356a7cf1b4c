"""Metrics of inpainting: SSIM, LPIPS, FID with KID, P-IDS and U-IDS, PSNR and L1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saicinpainting.metrics.base import ImageMetric
from saicinpainting.metrics.fid import FIDScore
from saicinpainting.metrics.lpips import LPIPSScore
from saicinpainting.metrics.pixels import L1Score, PSNRScore
from saicinpainting.metrics.ssim import SSIMScore
from saicinpainting.utils import InputError

__all__ = ["METRICS", "FIDScore", "ImageMetric", "L1Score", "LPIPSScore", "PSNRScore", "SSIMScore", "make_metrics"]

SWITCHES = {
    "ssim": True, "lpips": True, "fid": True,
    "kid": False, "ids": False, "psnr": False, "l1": False, "segm": False,
}  # fmt: skip
"""The switches of `make_metrics`, and whether they are on unless told otherwise."""
METRICS = tuple(SWITCHES)

SEGMENTATION = "segm_stats"
"""The name of `SegmentationStats`, whose rows give the other metrics by class."""

HIGHER_IS_BETTER = {
    "ssim": True, "lpips": False, "fid": False, "kid": False, "p_ids": True, "u_ids": True,
    "psnr": True, "psnr_hole": True, "l1": False, "l1_hole": False,
    "ssim_fid100_f1": True, "lpips_fid100_f1": True,
}  # fmt: skip
"""Every score that the metrics and their integrals report."""


def make_metrics(
    *,
    ssim: bool = True,
    lpips: bool = True,
    fid: bool = True,
    kid: bool = False,
    ids: bool = False,
    psnr: bool = False,
    l1: bool = False,
    segm: bool = False,
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
    segm_weights: str | Path | Sequence[str | Path] | None = None,
) -> dict[str, ImageMetric]:
    """The metrics that are switched on, by name; `psnr` and `l1` are of the image and of the hole.

    kid: KID, ids: P-IDS and U-IDS; FID's features give them. segm: classes in the holes; SSIM, LPIPS, FID by class.
    """
    for name, on, scores in (("kid", kid, "KID is"), ("ids", ids, "P-IDS and U-IDS are")):
        if on and not fid:
            raise InputError(f"{name}: {scores} computed from the features of FID; switch fid on as well")
    metrics: dict[str, ImageMetric] = {}
    if ssim:
        metrics["ssim"] = SSIMScore()
    if lpips:
        metrics["lpips"] = LPIPSScore(weights_path=lpips_weights)
    if fid:
        metrics["fid"] = FIDScore(weights_path=fid_weights, ids=ids, kid=kid)
    for name, on, score in (("psnr", psnr, PSNRScore), ("l1", l1, L1Score)):
        if on:
            metrics |= {name: score(), f"{name}_hole": score(hole=True)}
    if segm:
        from saicinpainting.metrics.segmentation import SegmentationStats

        metrics[SEGMENTATION] = SegmentationStats(weights_path=segm_weights)
    return metrics


def reported_scores(settings: Mapping[str, Any]) -> list[str]:
    """The scores of images and sets, not of classes, that an evaluator with these settings reports."""
    parts = {"ids": ["p_ids", "u_ids"], "psnr": ["psnr", "psnr_hole"], "l1": ["l1", "l1_hole"], "segm": []}
    on = [name for name, default in SWITCHES.items() if settings.get(name, default)]
    scores = [score for name in on for score in parts.get(name, [name])]
    if "fid" in on and settings.get("integral_kind", "ssim_fid100_f1"):
        scores += [f"{name}_fid100_f1" for name in on if name in ("ssim", "lpips")]
    return scores
