"""Convolutions to few channels, such as the last one to RGB, that compute 2x2 pixels of the result at once.

Processors work on the outputs of a convolution in groups of 16 channels; three of them leave most of a group idle. Four
copies of the kernel, each moved by a pixel, see the same patch of 8x8 pixels in place of 7x7, and give what four
neighbouring positions would: twelve channels with a stride of 2. The added weights are zeros, so the sums are the same
as long as the input is finite.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.networks.base import FastConv2d, is_exporting

BLOCK = 2  # pixels in each direction
GROUP = 16  # channels that are computed together


class PixelBlockConv2d(FastConv2d):
    """A `Conv2d` that computes blocks of pixels on a CPU, else as usual."""

    @staticmethod
    def fits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
        return (
            FastConv2d.is_plain(conv)
            and conv.padding == (0, 0)
            and min(conv.kernel_size) > 1
            and conv.out_channels * BLOCK**2 <= GROUP
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dim() != 4 or is_exporting():
            return super().forward(x)
        height, width = (side - kernel + 1 for side, kernel in zip(x.shape[2:], self.kernel_size, strict=True))
        if min(height, width) < 1:
            return super().forward(x)  # which tells what is wrong
        missing = height % BLOCK, width % BLOCK
        if any(missing):
            x = F.pad(x, (0, missing[1], 0, missing[0]))
        bias = None if self.bias is None else self.bias.repeat_interleave(BLOCK**2)
        blocks = F.conv2d(x, self._kernel_of_a_block(), bias, stride=BLOCK)
        return F.pixel_shuffle(blocks, BLOCK)[:, :, :height, :width]

    def _kernel_of_a_block(self) -> Tensor:
        """(4 O, C, h + 1, w + 1), the four of an output channel in the order of `pixel_shuffle`."""
        last = BLOCK - 1
        places = [(row, column) for row in range(BLOCK) for column in range(BLOCK)]
        moved = [F.pad(self.weight, (column, last - column, row, last - row)) for row, column in places]
        kernel = torch.stack(moved, dim=1).flatten(0, 1)
        return kernel.contiguous(memory_format=torch.channels_last)
