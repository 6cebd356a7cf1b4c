"""Padding to the sizes that networks take."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) continued by its mirror image to the right and the bottom, as `pad_img_to_modulo` does it."""
    height, width = x.shape[2:]
    if (rows, columns) == (height, width):
        return x
    return x[:, :, _mirror(height, rows)][:, :, :, _mirror(width, columns)]


def _mirror(length: int, wanted: int) -> Tensor:
    """Indices 0 … length - 1, length - 1 … 0, 0 …, as many as wanted."""
    period = torch.cat([torch.arange(length), torch.arange(length - 1, -1, -1)])
    return period[torch.arange(wanted) % (2 * length)]
