"""Masks that weigh the losses by the distance from the hole's edge: `training_model.distance_weighter_kwargs`.

Near the edge a hole is filled by what lies around it; deep inside there is no one answer to be held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saicinpainting.utils import InputError, build


@dataclass(frozen=True, kw_only=True)
class BlurredMask:
    """`distance_weighter_kwargs.kind: blur`: the mask after a Gaussian of variance `kernel_size * width_factor` / 2,
    inside the hole; less than 1 near its edge."""

    kernel_size: int = 5
    width_factor: float = 1

    def __post_init__(self) -> None:
        _check_kernel("kernel_size", self.kernel_size)

    def __call__(self, mask: Tensor) -> Tensor:
        """mask: (B, 1, H, W), 1 = hole; the same shape, values in [0, 1]."""
        return _filtered(mask, _gaussian(self.kernel_size, self.width_factor, mask)) * mask


@dataclass(frozen=True, kw_only=True)
class EmulatedDistanceMask:
    """`distance_weighter_kwargs.kind: edt`: the hole without a margin, blurred, inside the hole; 0 at its edge.

    The margin is where a window of `dilate_kernel_size` holds more than one known pixel.
    """

    dilate_kernel_size: int = 5
    blur_kernel_size: int = 5
    width_factor: float = 1

    def __post_init__(self) -> None:
        _check_kernel("dilate_kernel_size", self.dilate_kernel_size)
        _check_kernel("blur_kernel_size", self.blur_kernel_size)

    def __call__(self, mask: Tensor) -> Tensor:
        """mask: (B, 1, H, W), 1 = hole; the same shape, values in [0, 1]."""
        ones = mask.new_ones(1, 1, self.dilate_kernel_size, self.dilate_kernel_size)
        inner = (_filtered(1 - mask, ones) <= 1).to(mask)
        return _filtered(inner, _gaussian(self.blur_kernel_size, self.width_factor, mask)) * mask


def _check_kernel(name: str, size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise InputError(f"training_model.distance_weighter_kwargs.{name}: expected an odd number, got {size}")


def _gaussian(size: int, width_factor: float, like: Tensor) -> Tensor:
    """(1, 1, size, size), of sum 1."""
    squares = (torch.arange(size, device=like.device, dtype=like.dtype) - size // 2) ** 2
    kernel = torch.exp(-(squares[:, None] + squares[None, :]) / (size * width_factor))
    return (kernel / kernel.sum())[None, None]


def _filtered(mask: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of (B, 1, H, W) with an odd (1, 1, k, k), the borders repeated."""
    pad = kernel.shape[-1] // 2
    with torch.autocast(mask.device.type, enabled=False):  # a weight of the loss, not a map inside a network
        return F.conv2d(F.pad(mask, (pad, pad, pad, pad), mode="replicate"), kernel)


def make_mask_distance_weighter(settings: Mapping[str, Any] | None) -> Callable[[Tensor], Tensor] | None:
    """The function of the mask that `distance_weighter_kwargs` describes; None for no weighing, as for kind `none`."""
    settings = settings or {}
    kind = settings.get("kind", "none")
    if kind == "none" and settings.get("_target_") is None:
        return None
    where = "training_model.distance_weighter_kwargs"
    if kind == "pps":
        raise InputError(
            f"{where}.kind=pps (weights spread by the likeness of VGG features) is not supported; use blur or edt, "
            "which go by the distance from the hole's edge"
        )
    return build({"blur": BlurredMask, "edt": EmulatedDistanceMask}, settings, where=where)
