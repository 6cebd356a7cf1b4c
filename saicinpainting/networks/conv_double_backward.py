"""A convolution whose second backward pass asks for gradients of kernels as such.

The R1 and R2 penalties differentiate the discriminator twice. PyTorch's own second derivative of a convolution writes
the gradient of a 4x4 kernel as a forward convolution with a kernel as large as the image, for which cuDNN has no fast
algorithm. The three operations here, of which each one's derivatives are the other two, call `convolution_backward`
instead. The numbers are the same, to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from saicinpainting.networks.base import FastConv2d
from saicinpainting.networks.casting import casts_weights


class Geometry(NamedTuple):
    """How the kernel moves over the map."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class DoubleBackwardConv2d(FastConv2d):
    """A `Conv2d` with zero padding that may be differentiated twice at the cost of its kernels' size."""

    def forward(self, x: Tensor) -> Tensor:
        # Where nothing asks for a second derivative, or a compiler looks on, PyTorch's own is as good.
        twice = torch.is_grad_enabled() and x.requires_grad and self.weight.requires_grad
        if not twice or torch.compiler.is_compiling():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if casts_weights(x.device):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        assert not isinstance(self.padding, str)
        geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        return _Convolution.apply(x, weight, bias, geometry)


class _Convolution(torch.autograd.Function):
    """y = x * w + b; x: (B, C, H, W), w: (O, C / groups, h, w), b: (O,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _convolution(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = _InputGradient.apply(grad_y, weight, x, ctx.geometry) if wants_x else None
        grad_weight = _KernelGradient.apply(grad_y, x, weight, ctx.geometry) if wants_weight else None
        grad_bias = grad_y.sum((0, 2, 3)) if wants_bias else None
        return grad_x, grad_weight, grad_bias, None


class _InputGradient(torch.autograd.Function):
    """∂y/∂x applied to grad_y: linear in grad_y and in the kernel; of `x` only the shape matters."""

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad_y, weight)
        ctx.geometry = geometry
        return _convolution_backward(grad_y, x, weight, geometry, wanted=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_y, weight = ctx.saved_tensors
        wants_y, wants_weight, *_ = ctx.needs_input_grad
        by_y = _Convolution.apply(grad, weight, None, ctx.geometry) if wants_y else None
        by_weight = _KernelGradient.apply(grad_y, grad, weight, ctx.geometry) if wants_weight else None
        return by_y, by_weight, None, None


class _KernelGradient(torch.autograd.Function):
    """∂y/∂w applied to grad_y: linear in grad_y and in x; of `weight` only the shape matters."""

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad_y, x)
        ctx.geometry = geometry
        return _convolution_backward(grad_y, x, weight, geometry, wanted=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_y, x = ctx.saved_tensors
        wants_y, wants_x, *_ = ctx.needs_input_grad
        by_y = _Convolution.apply(x, grad, None, ctx.geometry) if wants_y else None
        by_x = _InputGradient.apply(grad_y, grad, x, ctx.geometry) if wants_x else None
        return by_y, by_x, None, None


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)


def _convolution_backward(grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, *, wanted: int) -> Tensor:
    """The gradient of x (`wanted` 0) or of the kernel (1)."""
    stride, padding, dilation, groups = geometry
    mask = [index == wanted for index in range(3)]
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, stride, padding, dilation, False, (0, 0), groups, mask
    )[wanted]
