"""The official path of data sets, their loaders and the augmentation."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from saicinpainting.data import aug
from saicinpainting.data.datasets import (
    InpaintingTrainDataset,
    make_default_train_dataloader,
    make_default_val_dataloader,
    make_default_val_dataset,
)
from saicinpainting.masks.mixed import get_mask_generator

__all__ = [
    "InpaintingTrainDataset",
    "get_mask_generator",
    "get_transforms",
    "make_default_train_dataloader",
    "make_default_val_dataloader",
    "make_default_val_dataset",
]


def get_transforms(transform_variant: str, out_size: int) -> Callable[..., dict[str, np.ndarray]]:
    """`get_transforms("distortions", 256)(image=pixels)["image"]`: uint8 (H, W, 3) -> float32 (256, 256, 3) in [0, 1].

    Python's global random numbers decide.
    """
    transform = aug.get_transforms(transform_variant, out_size)

    def augmented(image: np.ndarray) -> dict[str, np.ndarray]:
        planes, _ = transform(image, random.getrandbits(32), None)
        return {"image": planes.transpose(1, 2, 0)}

    return augmented
