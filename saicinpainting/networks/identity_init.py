"""An encoder and decoder that hand the image on whole from the first step, for small networks and small batches.

With batch statistics of a few images a new network knows no colour for certain: what the batch's mean was is taken out
of it. And before its decoder can write details, its blocks are taught nothing about them. So norms keep their
statistics here (0 and 1: a scale and a shift), the encoder's first channels are the pixels of each block that a feature
stands for (as in space-to-depth, Shi et al. 2016), and the decoder puts them back; the residual blocks add little, and
the last layer nothing, for it gives what is added to the initial fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.utils import InputError

BLOCK_SCALE = 0.01
"""Of what a residual block adds: its last norm's weight. Not 0: behind a ReLU nothing would ever move it."""


@torch.no_grad()
def start_as_identity(model: nn.Sequential, *, first_block: int, widths: Sequence[int], colours: int) -> None:
    """Set the weights of a new generator of `FFCResNetGenerator`'s layers, in place.

    Args:
        first_block: index of its first residual block.
        widths: channels at full, half, quarter … resolution.
        colours: channels of its input that are the image; they come first.

    Raises:
        InputError: too few channels to hold the pixels.
    """
    levels = len(widths) - 1
    pixels = colours * 4**levels
    # Blocks only add, after a ReLU: what is to be taken off has channels of its own.
    if widths[-1] < 2 * pixels or any(width < colours * 4**level for level, width in enumerate(widths)):
        raise InputError(
            f"generator.identity_init: the {widths[-1]} channels of the residual blocks do not hold the pixels of a "
            f"block twice, {2 * pixels}; give ngf more or n_downsampling less"
        )
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, BatchNorm2d):
            layer.freeze()
    offset = widths[-1] - 2 * pixels
    encoder: list[Any] = list(model[1:first_block])
    _copy_pixels(encoder[0].ffc.convl2l.weight, colours)
    for level in range(levels):
        down = encoder[1 + level].ffc
        # Local and global channels as one, in the order in which the decoder meets them.
        parts = [conv for conv in (down.convl2l, down.convl2g) if not isinstance(conv, nn.Identity)]
        kernel = torch.cat([conv.weight for conv in parts])
        start, end = (offset, None) if level == levels - 1 else (0, 4 * colours * 4**level)
        kernel[start:end] = 0
        for channel, phase, y, x in _phases(colours * 4**level):
            kernel[start + 4 * channel + phase, channel, y, x] = 1
        for conv, part in zip(parts, kernel.split([len(conv.weight) for conv in parts]), strict=True):
            conv.weight.copy_(part)
    for name, norm in model[first_block:].named_modules():
        if isinstance(norm, BatchNorm2d) and name.endswith((".conv2.bn_l", ".conv2.bn_g")):
            norm.weight.fill_(BLOCK_SCALE)
    ups = [layer for layer in model if isinstance(layer, nn.ConvTranspose2d)]
    for level, up in zip(reversed(range(levels)), ups, strict=True):
        count = colours * 4**level
        up.weight[:, :count] = 0
        is_last = level == levels - 1
        for channel, phase, y, x in _phases(count):
            source = 4 * channel + phase + (offset if is_last else 0)
            up.weight[source, channel, y, x] = 1
            if is_last:
                up.weight[source + pixels, channel, y, x] = -1
    last = [layer for layer in model if isinstance(layer, nn.Conv2d)][-1]
    last.weight.zero_()


def _copy_pixels(weight: Tensor, colours: int) -> None:
    """The first channels of a kernel (out, in, h, w) become copies of the input's first."""
    weight[:colours] = 0
    for channel in range(colours):
        weight[channel, channel, weight.shape[2] // 2, weight.shape[3] // 2] = 1


def _phases(channels: int) -> list[tuple[int, int, int, int]]:
    """Channel, number of the pixel in its 2x2 block, and the place in a 3x3 kernel of stride 2 that is that pixel."""
    return [(channel, 2 * y + x, 1 + y, 1 + x) for channel in range(channels) for y in (0, 1) for x in (0, 1)]
