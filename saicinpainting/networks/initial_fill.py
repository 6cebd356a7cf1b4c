"""A smooth fill of the hole from its rim, for generators that only learn what to change in it.

The known pixels are averaged into a pyramid, and the hole is read from the finest levels that know something, as in
push-pull interpolation (Gortler et al., The Lumigraph, SIGGRAPH 1996). A few averages over neighbours at each level
bring the result near to the membrane that a Laplace equation would span.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.networks.base import at_least_float32, choose

LEVELS = 9
"""Halvings: holes of 512 pixels are reached from both sides."""
SWEEPS = 4
EPSILON = 1e-6


class PyramidFill(nn.Module):
    """(B, C + 1, H, W), C colours and the mask (1 = hole), to the same with the hole's colours filled.

    Known pixels stay as they are, and what the hole held does not count. Where nothing is known the fill is 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        colours, mask = at_least_float32(x[:, :-1]), at_least_float32(x[:, -1:])
        return torch.cat([fill_smoothly(colours, mask).to(x.dtype), x[:, -1:]], dim=1)


INITIAL_FILLS = {"pyramid": PyramidFill}


def get_initial_fill(kind: str | None) -> PyramidFill | None:
    return None if kind is None else choose(INITIAL_FILLS, kind, where="generator.initial_fill")()


def fill_smoothly(image: Tensor, mask: Tensor) -> Tensor:
    """`image` (B, C, H, W) with its hole (mask (B, 1, H, W), 1 = hole) filled from the rim; float32 or float64."""
    known = 1 - mask
    levels = [(image * known, known)]
    for _ in range(LEVELS):
        levels.append((_halve(levels[-1][0]), _halve(levels[-1][1])))
    sums, share = levels[-1]
    coarser = (sums.mean((2, 3)) / (share.mean((2, 3)) + EPSILON))[:, :, None, None].expand_as(sums)
    for level, (sums, share) in reversed(list(enumerate(levels))):
        # A pixel of which something is known has the mean of that.
        known_mean = sums / (share + EPSILON)
        filled = torch.where(share > 0, known_mean, coarser[:, :, : sums.shape[2], : sums.shape[3]])
        average = _average_around_fast if level == 0 else _average_around
        for _ in range(SWEEPS):
            filled = torch.where(share > 0, known_mean, average(filled))
        if level:
            coarser = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
    return image * known + filled * mask


def _halve(x: Tensor) -> Tensor:
    """Half the size, but at least 2: exports take a map of one pixel for a number."""
    return F.avg_pool2d(F.pad(x, (0, 3, 0, 3)), 2)


def _average_around(x: Tensor) -> Tensor:
    """Averages over 3 x 3 pixels, fewer at the borders."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _average_around_fast(x: Tensor) -> Tensor:
    """The same by sums of shifted maps: a fraction of the time on CPUs, but many operators, which make exports slow.

    So it is for the finest level alone, where three quarters of the time go.
    """
    return _sum_around(x) / _sum_around(torch.ones_like(x[:1, :1]))


def _sum_around(x: Tensor) -> Tensor:
    rows = F.pad(x, (0, 0, 1, 1))
    rows = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    columns = F.pad(rows, (1, 1))
    return columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
