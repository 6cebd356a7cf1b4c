"""The official path of image reading, padding and pairs of images and masks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from saicinpainting.data.pairs import (
    InpaintingDataset,
    InpaintingEvalOnlineDataset,
    OurInpaintingDataset,
    PrecomputedInpaintingResultsDataset,
)
from saicinpainting.io import images
from saicinpainting.io.images import ceil_modulo, pad_img_to_modulo, pad_tensor_to_modulo, scale_image

__all__ = [
    "InpaintingDataset",
    "InpaintingEvalOnlineDataset",
    "OurInpaintingDataset",
    "PrecomputedInpaintingResultsDataset",
    "ceil_modulo",
    "load_image",
    "pad_img_to_modulo",
    "pad_tensor_to_modulo",
    "scale_image",
]


def load_image(fname: str | os.PathLike[str], mode: str = "RGB", return_orig: bool = False) -> Any:
    """float32 in [0, 1], (3, H, W) or (H, W); with `return_orig` also the uint8 pixels, (H, W, 3) or (H, W)."""
    pixels = np.asarray(images.read_image(fname, mode))
    image = images.planes_of(pixels)
    return (image, pixels) if return_orig else image
