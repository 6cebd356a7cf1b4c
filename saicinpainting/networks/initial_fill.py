"""A smooth fill of the hole from its rim, for generators that only learn what to change in it.

The known pixels are averaged into a pyramid, and the hole is read from the coarsest levels that know something, as in
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


def fill_smoothly(image: Tensor, mask: Tensor) -> Tensor:
    """`image` (B, C, H, W) with its hole (mask (B, 1, H, W), 1 = hole) filled from the rim; float32 or float64."""
    known = 1 - mask
    levels = [(image * known, known)]
    for _ in range(LEVELS):
        levels.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]))
    sums, share = levels.pop()
    filled = sums / (share + EPSILON)
    for sums, share in reversed(levels):
        wider = F.interpolate(filled, size=sums.shape[-2:], mode="bilinear", align_corners=False)
        # sums is the mean colour of what is known here, times its share of the pixel.
        filled = sums + wider * (1 - share)
        for _ in range(SWEEPS):
            around = F.avg_pool2d(filled, 3, stride=1, padding=1, count_include_pad=False)
            filled = torch.where(share > 0, sums / (share + EPSILON) * share + filled * (1 - share), around)
    return image * known + filled * mask


INITIAL_FILLS = {"pyramid": PyramidFill}


def get_initial_fill(kind: str | None) -> nn.Module | None:
    return None if kind is None else choose(INITIAL_FILLS, kind, where="generator.initial_fill")()
