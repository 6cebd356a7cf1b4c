"""Padding to the sizes that networks take."""

from __future__ import annotations

import torch
from torch import Tensor

from saicinpainting.evaluation.data import ceil_modulo


def padded(x: Tensor, modulo: int, min_size: int) -> Tensor:
    """(B, C, H, W) with sides that are multiples of `modulo` and at least `min_size`, see `mirrored`."""
    rows, columns = (ceil_modulo(max(side, min_size), modulo) for side in x.shape[2:])
    return mirrored(x, rows, columns)


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
