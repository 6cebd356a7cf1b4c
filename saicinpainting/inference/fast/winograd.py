"""3x3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).

Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015, arXiv 1509.09308). A tile of 6x6 input pixels
gives 4x4 output pixels by 36 products in place of 144. In one dimension: the input polynomial and the kernel are taken
at the points 0, ±p, ±q and infinity, multiplied there, and interpolated; rows and columns follow each other.

The points are not Lavin's 0, ±1, ±2: with 0, ±3/4, ±3/2 the largest error in float32 is a third of theirs, and
the root mean square two to six times that of a direct convolution, by processor, channels and signs of the input.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saicinpainting.networks.base import FastConv2d

P, Q = 0.75, 1.5
P2, Q2 = P * P, Q * Q
TILE = 4  # output pixels of a tile in each direction
SEEN = TILE + 2  # input pixels of a tile in each direction
MIN_CHANNELS = 64
MIN_TILES = 16
"""Below these the changes of basis cost more than the products save."""
TILES_AT_ONCE = 128
"""So many keep the intermediate results of a layer in the cache."""


class WinogradConv2d(FastConv2d):
    """A `Conv2d` that goes the fast way where it is one: float32 on a CPU, weights without gradient; else as usual."""

    @staticmethod
    def fits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
        return (
            FastConv2d.is_plain(conv)
            and conv.kernel_size == (3, 3)
            and conv.padding in ((0, 0), (1, 1))
            and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_faster(x):
            return super().forward(x)
        if self.padding != (0, 0):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, (1, 1, 1, 1), mode=mode)
        return _Convolution.apply(x, self.weight, self.bias)

    def _is_faster(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return False
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return False
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return False
        return x.shape[0] * x.shape[2] * x.shape[3] >= MIN_TILES * TILE**2


class _Convolution(torch.autograd.Function):
    """`convolve` with a gradient of its input, for refinement."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return convolve(F.pad(gradient, (2, 2, 2, 2)), weight.flip(2, 3).transpose(0, 1)), None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d(x, weight, bias)`, (B, C, H + 2, W + 2) by (O, C, 3, 3) to (B, O, H, W), in channels_last."""
    height, width = x.shape[2] - 2, x.shape[3] - 2
    rows, columns = -(-height // TILE), -(-width // TILE)
    right, below = columns * TILE - width, rows * TILE - height
    if right or below:
        x = F.pad(x, (0, right, 0, below))
    x = x.permute(0, 2, 3, 1).contiguous()
    kernel = _kernel_at_points(weight)
    y = x.new_empty(len(x), rows, TILE, columns, TILE, len(weight))
    step = max(1, TILES_AT_ONCE // columns)
    for image, out in zip(x, y, strict=True):
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            _convolve_rows(image[top * TILE : bottom * TILE + 2], kernel, out[top:bottom])
    y = y.view(len(x), rows * TILE, columns * TILE, len(weight))
    if bias is not None:
        y += bias
    return y[:, :height, :width].permute(0, 3, 1, 2)


def _convolve_rows(x: Tensor, kernel: Tensor, out: Tensor) -> None:
    """Rows of tiles: x (4r + 2, 4c + 2, C), kernel (36, C, O), out (r, 4, c, 4, O)."""
    r, c = out.shape[0], out.shape[2]
    halfway = _scratch("halfway", x, SEEN, r, *x.shape[1:])
    _input_at_points([x[k : k + r * TILE - 3 : TILE] for k in range(SEEN)], halfway)
    tiles = _scratch("tiles", x, SEEN * SEEN, r * c, x.shape[2])
    _input_at_points(
        [halfway[:, :, k : k + c * TILE - 3 : TILE] for k in range(SEEN)], tiles.view(SEEN, SEEN, r, c, -1)
    )
    products = _scratch("products", x, SEEN * SEEN, r * c, out.shape[-1])
    torch.bmm(tiles, kernel, out=products)
    rows = _scratch("rows", x, TILE, SEEN, r, c, out.shape[-1])
    _interpolated(products.view(SEEN, SEEN, r, c, -1).unbind(1), rows)
    _interpolated(rows.unbind(1), out.permute(3, 1, 0, 2, 4))


_SCRATCH = threading.local()


def _scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """Memory for a step's result, the same for every layer: fresh memory costs more than what is computed in it."""
    size = math.prod(shape)
    known: Tensor | None = getattr(_SCRATCH, name, None)
    if known is None or known.numel() < size or known.dtype != like.dtype:
        with torch.inference_mode(False):
            known = torch.empty(size, dtype=like.dtype)
        setattr(_SCRATCH, name, known)
    return known[:size].view(shape)


# ---- one dimension -------------------------------------------------------------------------------------------------


def _basis() -> Tensor:
    """(36, 9), float64: a kernel's values to those at the points, over what interpolation divides by."""
    lines = [[1 / (P2 * Q2), 0, 0]]
    for p, other in ((P, Q2), (-P, Q2), (Q, P2), (-Q, P2)):
        share = 1 / (2 * p * p * (p * p - other))
        lines.append([share, share * p, share * p * p])
    lines.append([0, 0, 1])
    line = torch.tensor(lines, dtype=torch.float64)
    # Columns of the image first, as the tiles have it.
    return torch.einsum("jb,ia->jiab", line, line).reshape(SEEN * SEEN, 9)


BASIS = _basis()


def _kernel_at_points(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) to (36, C, O)."""
    out, into = weight.shape[:2]
    kernel = _scratch("kernel", weight, SEEN * SEEN, into, out)
    pixels = weight.detach().permute(2, 3, 1, 0).reshape(9, into * out)
    # BLAS takes 18 rows of points far faster than 36.
    for basis, part in zip(BASIS.to(weight).chunk(2), kernel.view(SEEN * SEEN, -1).chunk(2), strict=True):
        torch.mm(basis, pixels, out=part)
    return kernel


def _input_at_points(d: Sequence[Tensor], out: Tensor) -> None:
    """Six pixels d to out[0 … 5]: at 0, P, -P, Q, -Q and infinity."""
    torch.add(d[4], d[2], alpha=-(P2 + Q2), out=out[0]).add_(d[0], alpha=P2 * Q2)
    for i, p, other in ((1, P, Q2), (3, Q, P2)):
        even = torch.add(d[4], d[2], alpha=-other)
        odd = torch.add(d[3], d[1], alpha=-other)
        torch.add(even, odd, alpha=p, out=out[i])
        torch.add(even, odd, alpha=-p, out=out[i + 1])
    torch.add(d[5], d[3], alpha=-(P2 + Q2), out=out[5]).add_(d[1], alpha=P2 * Q2)


def _interpolated(m: Sequence[Tensor], out: Tensor) -> None:
    """Products m at the six points to the four pixels out[0 … 3]."""
    sum_p, difference_p, sum_q, difference_q = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    torch.add(sum_p, sum_q, out=out[0]).add_(m[0])
    torch.mul(difference_p, P, out=out[1]).add_(difference_q, alpha=Q)
    torch.mul(sum_p, P2, out=out[2]).add_(sum_q, alpha=Q2)
    torch.add(m[5], difference_p, alpha=P2 * P, out=out[3]).add_(difference_q, alpha=Q2 * Q)
