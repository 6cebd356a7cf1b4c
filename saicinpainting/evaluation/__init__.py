"""Measuring inpainting: data sets of images and masks, metrics, and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saicinpainting.utils import InputError, build, check_bool

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
    ids: bool = False,
    psnr: bool = False,
    l1: bool = False,
    costly_every: int = 1,
    inpainted_key: str = "inpainted",
    integral_kind: str | None = "ssim_fid100_f1",
    lpips_weights: str | Path | None = None,
    fid_weights: str | Path | None = None,
) -> InpaintingEvaluator:
    """The metrics of `inpainted_key` that are switched on, and their integrals; `integral_kind=None` leaves these out.

    `ids`: P-IDS and U-IDS; `psnr`, `l1`: of the image and of the hole; `costly_every`: LPIPS and FID at every so
    many-th validation. `lpips_weights`, `fid_weights`: files or addresses of the metrics' networks, which are
    downloaded otherwise.
    """
    # Imported here because prediction uses this package too and needs none of the metrics' libraries.
    from saicinpainting.evaluation.evaluator import InpaintingEvaluator
    from saicinpainting.evaluation.metrics import make_metrics

    switches: dict[str, Any] = {"ssim": ssim, "lpips": lpips, "fid": fid, "ids": ids, "psnr": psnr, "l1": l1}
    for name, value in switches.items():
        check_bool(f"evaluator.{name}", value)
    if ids and not fid:
        raise InputError("evaluator.ids: P-IDS and U-IDS are computed from FID's features; set evaluator.fid=true")
    try:
        weights: dict[str, Any] = {"lpips_weights": lpips_weights, "fid_weights": fid_weights}
        metrics = make_metrics(**switches, **weights)
    except InputError as error:
        raise InputError(f"{error}, or switch it off with evaluator.lpips=false evaluator.fid=false") from error
    return InpaintingEvaluator(
        metrics=metrics, inpainted_key=inpainted_key, integral_kind=integral_kind, costly_every=costly_every
    )


EVALUATORS = {"default": _default_evaluator}
