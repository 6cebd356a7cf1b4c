"""Weights in autocast's precision, cast for a whole layer by one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# What autocast computes in half precision, casting the weights at every call.
_CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def casts_weights(device: torch.device) -> bool:
    """Whether there is an autocast for `device` around. A compiler fuses its casts by itself."""
    if device.type == "meta":  # PyTorch knows no autocast there
        return False
    return torch.is_autocast_enabled(device.type) and not torch.compiler.is_compiling()


@contextmanager
def weights_in_autocast_dtype(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Within, the weights of convolutions in `module` are in the precision of the autocast around it.

    They get the gradients that autocast's own casts would give them, bit for bit.
    """
    places = [
        (part._parameters, name, weight)
        for part in module.modules()
        if isinstance(part, _CAST)
        for name, weight in part._parameters.items()
        if weight is not None and weight.dtype == torch.float32
    ]
    if not places:
        yield
        return
    cast = _Cast.apply(torch.get_autocast_dtype(device.type), *(weight for _, _, weight in places))
    for (parameters, name, _), weight in zip(places, cast, strict=True):
        parameters[name] = weight
    try:
        yield
    finally:
        for parameters, name, weight in places:
            parameters[name] = weight


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return _cast(weights, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = iter(_cast([gradient for gradient in gradients if gradient is not None], torch.float32))
        return None, *(None if gradient is None else next(there) for gradient in gradients)


def _cast(tensors: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
    made = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    if made:
        torch._foreach_copy_(made, list(tensors))
    return made
