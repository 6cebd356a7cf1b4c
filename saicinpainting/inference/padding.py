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
    return x[:, :, _mirror(height, rows, x.device)][:, :, :, _mirror(width, columns, x.device)]


def _mirror(length: int, wanted: int, device: torch.device) -> Tensor:
    """Indices 0 … length - 1, length - 1 … 0, 0 …, as many as wanted."""
    place = torch.arange(wanted, device=device) % (2 * length)
    return torch.minimum(place, 2 * length - 1 - place)
