"""Where training code and downstream scripts find the mask generators; they live under evaluation/masks."""

from __future__ import annotations

from saicinpainting.evaluation.masks.generators import (
    DrawMethod,
    DumbAreaMaskGenerator,
    MaskGenerator,
    MaskRandom,
    OutpaintingMaskGenerator,
    RandomIrregularMaskGenerator,
    RandomRectangleMaskGenerator,
    RandomSuperresMaskGenerator,
)
from saicinpainting.evaluation.masks.mixed import MixedMaskGenerator, get_mask_generator

__all__ = [
    "DrawMethod",
    "DumbAreaMaskGenerator",
    "MaskGenerator",
    "MaskRandom",
    "MixedMaskGenerator",
    "OutpaintingMaskGenerator",
    "RandomIrregularMaskGenerator",
    "RandomRectangleMaskGenerator",
    "RandomSuperresMaskGenerator",
    "get_mask_generator",
]
