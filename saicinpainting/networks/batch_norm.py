"""Batch norms: batches counted once for a whole network, and norms put into the convolutions before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saicinpainting.utils import InputError


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; inside a network that counts by `count_batch` it does not count its batches itself.

    The counter `num_batches_tracked` decides nothing here, but is in every checkpoint; counting costs a launch a layer.
    Networks count in `forward` alone, not where their layers are called by themselves. After `freeze` it keeps its
    statistics, in training too, and learns its weight and bias alone.
    """

    counted_by_network = False
    frozen = False

    def freeze(self) -> None:
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> BatchNorm2d:
        super().train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if not (self.counted_by_network and self.training and self.track_running_stats) or self.momentum is None:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


def leave_counting_to(network: nn.Module) -> None:
    """The norms inside `network` count no batches; it calls `count_batch` in each of its forward passes."""
    for part in network.modules():
        if isinstance(part, BatchNorm2d):
            part.counted_by_network = True


@torch.no_grad()
def count_batch(network: nn.Module) -> None:
    """One more batch for all norms inside `network` that are in training, by one call."""
    counters = [
        part.num_batches_tracked
        for part in network.modules()
        if isinstance(part, BatchNorm2d) and part.training and part.num_batches_tracked is not None
    ]
    if counters:
        torch._foreach_add_(counters, 1)


def freeze_batch_norms(network: nn.Module) -> None:
    """All norms inside `network` keep their running statistics, in training too.

    Raises:
        InputError: there are none, or some that know no `freeze`.
    """
    where, norms = "training_model.frozen_batch_norm", [m for m in network.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise InputError(f"{where}: the generator has no batch norms; set it to false")
    freeze_norms(norms, where=where)


def freeze_norms(norms: Iterable[nn.Module], *, where: str) -> None:
    """These batch norms keep their running statistics; `where`: the config key that asks for it.

    Raises:
        InputError: one of them knows no `freeze`.
    """
    for norm in norms:
        if not isinstance(norm, BatchNorm2d):
            raise InputError(
                f"{where}: a {type(norm).__name__} cannot be frozen; it takes batch norms of networks.batch_norm, "
                "without trainer.kwargs.sync_batchnorm"
            )
        norm.freeze()


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards the buffers of `network`, running statistics and counters, are what they were."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def fold_batch_norms(module: nn.Module) -> None:
    """Put each batch norm inside `module` into the convolution before it, in place; an identity keeps the numbers.

    They have to be neighbours in a `Sequential`, or be called `conv…` and `bn…` with the same ending.
    """
    for child in module.children():
        fold_batch_norms(child)
    names = list(module._modules)
    pairs = [(name, name.replace("conv", "bn")) for name in names if name.startswith("conv")]
    if isinstance(module, nn.Sequential):
        pairs = list(pairwise(names))
    for conv_name, norm_name in pairs:
        conv, norm = module._modules[conv_name], module._modules.get(norm_name)
        if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            setattr(module, conv_name, folded.requires_grad_(conv.weight.requires_grad))
            setattr(module, norm_name, nn.Identity())
