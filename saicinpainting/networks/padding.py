"""Reflected borders that keep the layout of a map on GPUs, and are deterministic where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reflect_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """`F.pad(x, padding, mode="reflect")`.

    On CUDA PyTorch's `reflection_pad2d` returns NCHW whatever it is given, after which every convolution converts back
    and forth. A channels_last map is a contiguous volume (B, H, W, C), whose padding in three dimensions keeps it so.
    Neither has a deterministic backward pass there; indexing has.

    Args:
        x: (B, C, H, W).
        padding: left, right, top, bottom, each below the side it pads.

    Returns:
        (B, C, top + H + bottom, left + W + right).
    """
    left, right, top, bottom = padding
    if x.device.type == "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        # Autocast on CPUs would widen a bfloat16 map to float32, though padding only copies.
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            return F.pad(x, (left, right, top, bottom), mode="reflect")
    if torch.are_deterministic_algorithms_enabled():
        rows, columns = _reflected(x.shape[2], top, bottom, x.device), _reflected(x.shape[3], left, right, x.device)
        return x[:, :, rows[:, None], columns]
    if x.stride(1) == 1 and not x.is_contiguous():  # some channels of a channels_last map too
        volume = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom), mode="reflect")
        return volume.permute(0, 3, 1, 2)
    return F.pad(x, (left, right, top, bottom), mode="reflect")


def _reflected(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Which pixel of a side each pixel of the padded side is: int64 (before + size + after,)."""
    places = torch.arange(-before, size + after, device=device).abs()
    return size - 1 - (size - 1 - places).abs()


class ReflectionPad2d(nn.ReflectionPad2d):
    """`nn.ReflectionPad2d` by `reflect_pad`."""

    def forward(self, x: Tensor) -> Tensor:
        return reflect_pad(x, self.padding)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that pads by `reflect_pad` where its `padding_mode` is `reflect`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "reflect":
            return super()._conv_forward(x, weight, bias)
        # Private names of torch, by which nn.Conv2d itself pads: (left, right, top, bottom).
        x = reflect_pad(x, self._reversed_padding_repeated_twice)
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)
