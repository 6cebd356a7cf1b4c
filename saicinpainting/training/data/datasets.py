"""The official path of data sets, their loaders and the augmentation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from saicinpainting.data import aug, datasets
from saicinpainting.data.datasets import (
    make_default_train_dataloader,
    make_default_val_dataloader,
    make_default_val_dataset,
)
from saicinpainting.data.sources import FolderSource, PathLike
from saicinpainting.masks.generators import MaskGenerator
from saicinpainting.masks.mixed import get_mask_generator

__all__ = [
    "InpaintingTrainDataset",
    "get_mask_generator",
    "get_transforms",
    "make_default_train_dataloader",
    "make_default_val_dataloader",
    "make_default_val_dataset",
]


class InpaintingTrainDataset(datasets.InpaintingTrainDataset):
    """The training images of a folder, with random masks, as official scripts make it.

    Args:
        transform: of `get_transforms`, or called as it is, such as albumentations' `Compose`.
    """

    def __init__(self, indir: PathLike, mask_generator: MaskGenerator, transform: Callable[..., Any]) -> None:
        augmentation = transform if isinstance(transform, _Transform) else _Transform(transform, crops=False)
        super().__init__(FolderSource(indir), mask_generator, augmentation)


class _Transform:
    """An augmentation with the official call and ours."""

    def __init__(self, official: Callable[..., Any], *, crops: bool) -> None:
        self.official, self.crops = official, crops

    def __call__(self, image: np.ndarray, seed: int | None = None, labels: Any = None) -> Any:
        result = self.official(image=image)
        return result if seed is None else (result["image"].transpose(2, 0, 1), {})


def get_transforms(transform_variant: str, out_size: int) -> _Transform:
    """`get_transforms("distortions", 256)(image=pixels)["image"]`: uint8 (H, W, 3) -> float32 (256, 256, 3) in [0, 1].

    Python's global random numbers decide.
    """
    transform = aug.get_transforms(transform_variant, out_size)

    def augmented(image: np.ndarray) -> dict[str, np.ndarray]:
        planes, _ = transform(image, random.getrandbits(32), None)
        return {"image": planes.transpose(1, 2, 0)}

    return _Transform(augmented, crops=transform.crops)
