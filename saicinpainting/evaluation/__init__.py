"""Measuring inpainting: data sets of images and masks, metrics, and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saicinpainting.utils import InputError, build

if TYPE_CHECKING:
    from saicinpainting.evaluation.evaluator import InpaintingEvaluator


def make_evaluator(kind: str = "default", **settings: Any) -> InpaintingEvaluator:
    """The evaluator that the config group `evaluator` describes; see `_default_evaluator` for its settings."""
    return build(EVALUATORS, {"kind": kind, **settings}, where="evaluator")


def _default_evaluator(
    *,
    ssim: bool = True,
    lpips: bool = True,
    fid: bool = True,
    inpainted_key: str = "inpainted",
    integral_kind: str | None = "ssim_fid100_f1",
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
) -> InpaintingEvaluator:
    """SSIM, LPIPS and FID of `inpainted_key`, and their integrals; `integral_kind=None` leaves these out.

    `lpips_weights`, `fid_weights`: files of the metrics' networks, which are downloaded otherwise.
    """
    # Imported here because prediction uses this package too and needs none of the metrics' libraries.
    from saicinpainting.evaluation.evaluator import InpaintingEvaluator
    from saicinpainting.evaluation.metrics import make_metrics

    try:
        metrics = make_metrics(ssim=ssim, lpips=lpips, fid=fid, lpips_weights=lpips_weights, fid_weights=fid_weights)
    except InputError as error:
        raise InputError(f"{error}, or switch it off with evaluator.lpips=false evaluator.fid=false") from error
    return InpaintingEvaluator(metrics=metrics, inpainted_key=inpainted_key, integral_kind=integral_kind)


EVALUATORS = {"default": _default_evaluator}
