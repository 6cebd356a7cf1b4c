"""A batch as one picture: a row per item, a column per kind of image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saicinpainting.utils import InputError

OUTLINE_RGB = (255, 0, 160)


def visualize_batch(
    batch: Mapping[str, Any],
    *,
    key_order: Sequence[str] = ("image", "predicted_image", "inpainted"),
    max_items: int = 10,
    last_without_mask: bool = True,
    rescale_keys: Collection[str] = (),
) -> np.ndarray:
    """Draw the first `max_items` of a batch; uint8 (rows · H, columns · W, 3), RGB.

    batch: the keys are (B, 1 or 3, h, w) in [0, 1], mask is (B, 1, H, W), 1 = hole. Keys that the batch lacks
    are left out. Images of `rescale_keys` (scores, in any range) are stretched to 0..1 one by one. The hole is
    outlined in all columns, save the last one where `last_without_mask`.
    """
    keys = [key for key in key_order if key in batch]
    if not keys:
        raise InputError(
            f"visualizer.key_order: the batch has none of {', '.join(key_order)}; it has {', '.join(batch)}"
        )
    outlined = keys[:-1] if last_without_mask else keys
    rows = []
    for item in range(min(max_items, len(batch["mask"]))):
        mask = batch["mask"][item]
        outline = _outline(mask)
        row = []
        for key in keys:
            picture = _to_uint8(batch[key][item], size=mask.shape[-2:], rescale=key in rescale_keys)
            if key in outlined:
                picture[outline] = OUTLINE_RGB
            row.append(picture)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def _to_uint8(image: Tensor, *, size: Sequence[int], rescale: bool) -> np.ndarray:
    """(C, h, w) with C = 1 or 3 -> uint8 (H, W, 3)."""
    image = image.detach().float().cpu()
    if rescale:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-5)
    image = F.interpolate(image[None], size=(size[0], size[1]), mode="nearest")[0].expand(3, -1, -1)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _outline(mask: Tensor) -> np.ndarray:
    """(1, H, W) -> bool (H, W): the pixels on both sides of the hole's edge."""
    hole = (mask[0] > 0.5).to(torch.uint8).cpu().numpy()
    return cv2.morphologyEx(hole, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
