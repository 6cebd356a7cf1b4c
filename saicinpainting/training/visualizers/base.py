"""The official path of pictures of batches."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from saicinpainting.training.visualizer import visualize_batch


class BaseVisualizer(abc.ABC):
    """What a visualizer of one's own derives from."""

    @abc.abstractmethod
    def __call__(
        self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str = "", rank: int | None = None
    ) -> None:
        """Take a batch and draw it."""


def visualize_mask_and_images(
    images_dict: Mapping[str, np.ndarray],
    keys: Sequence[str],
    last_without_mask: bool = True,
    rescale_keys: Sequence[str] | None = None,
) -> np.ndarray:
    """A row of images (C, H, W), the hole of `mask` (1, H, W) outlined: float32 (H, keys * W, 3) in [0, 1]."""
    batch = {key: torch.as_tensor(value)[None] for key, value in images_dict.items()}
    return visualize_mask_and_images_batch(batch, keys, 1, last_without_mask, rescale_keys)


def visualize_mask_and_images_batch(
    batch: Mapping[str, torch.Tensor],
    keys: Sequence[str],
    max_items: int = 10,
    last_without_mask: bool = True,
    rescale_keys: Sequence[str] | None = None,
) -> np.ndarray:
    """A row per item: float32 (items * H, keys * W, 3) in [0, 1]."""
    picture = visualize_batch(
        batch,
        key_order=keys,
        max_items=max_items,
        last_without_mask=last_without_mask,
        rescale_keys=rescale_keys or (),
    )
    return picture.astype(np.float32) / 255
