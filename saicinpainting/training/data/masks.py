"""The official path of the mask generators."""

from __future__ import annotations

from saicinpainting.masks.generators import (
    DrawMethod,
    DumbAreaMaskGenerator,
    OutpaintingMaskGenerator,
    RandomIrregularMaskGenerator,
    RandomRectangleMaskGenerator,
    RandomSuperresMaskGenerator,
)
from saicinpainting.masks.mixed import MixedMaskGenerator, get_mask_generator

__all__ = [
    "DrawMethod",
    "DumbAreaMaskGenerator",
    "MixedMaskGenerator",
    "OutpaintingMaskGenerator",
    "RandomIrregularMaskGenerator",
    "RandomRectangleMaskGenerator",
    "RandomSuperresMaskGenerator",
    "get_mask_generator",
]
