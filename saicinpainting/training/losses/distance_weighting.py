"""The official path and calls of distance-weighted masks: of image, prediction and mask, though the mask decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from saicinpainting.losses import distance_weighting

__all__ = ["BlurMask", "EmulatedEDTMask", "make_mask_distance_weighter"]

Weighter = Callable[[Any, Any, Tensor], Tensor]


def make_mask_distance_weighter(kind: str = "none", **settings: Any) -> Weighter:
    """The function that `distance_weighter_kwargs` describes; of kind `none` it gives the mask back."""
    weighter = distance_weighting.make_mask_distance_weighter({"kind": kind, **settings})
    return lambda real_img, pred_img, mask: mask if weighter is None else weighter(mask)


def BlurMask(kernel_size: int = 5, width_factor: float = 1) -> Weighter:  # noqa: N802
    """See `BlurredMask`."""
    return make_mask_distance_weighter("blur", kernel_size=kernel_size, width_factor=width_factor)


def EmulatedEDTMask(  # noqa: N802
    dilate_kernel_size: int = 5, blur_kernel_size: int = 5, width_factor: float = 1
) -> Weighter:
    """See `EmulatedDistanceMask`."""
    sizes = {"dilate_kernel_size": dilate_kernel_size, "blur_kernel_size": blur_kernel_size}
    return make_mask_distance_weighter("edt", **sizes, width_factor=width_factor)
