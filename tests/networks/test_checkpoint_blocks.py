"""Residual blocks computed twice: the same numbers from fewer kept maps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from saicinpainting.networks import make_generator
from saicinpainting.networks.base import Generator
from saicinpainting.training.parts import ModuleOptions
from saicinpainting.utils import InputError
from tests.helpers import fill, rand

FFC = {
    "kind": "ffc_resnet", "input_nc": 4, "output_nc": 3, "ngf": 8, "n_downsampling": 2, "n_blocks": 6,
    "init_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "downsample_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "resnet_conv_kwargs": {"ratio_gin": 0.75, "ratio_gout": 0.75, "enable_lfu": False},
}  # fmt: skip
GLOBAL = {"kind": "pix2pixhd_global", "input_nc": 4, "output_nc": 3, "ngf": 8, "n_blocks": 6, "n_downsampling": 2}


def step(settings: dict[str, Any], *, checkpoint: bool, mixed: bool = False) -> tuple[Generator, torch.Tensor, int]:
    """A generator after a forward and a backward pass, its output, and the bytes that were kept between them."""
    generator = fill(make_generator(**settings)).train()
    assert isinstance(generator, Generator)
    generator.checkpoint_blocks = checkpoint
    dtype = torch.float32 if mixed else torch.float64
    generator.to(dtype)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held = []  # so that no address comes twice
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or keep(t), lambda t: t),
        torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext(),
    ):
        y = generator(rand(0, 2, 4, 64, 64).to(dtype))
    bytes_kept = sum(kept.values())
    y.float().square().mean().backward()
    return generator, y.detach(), bytes_kept


@pytest.mark.parametrize("settings", [FFC, GLOBAL], ids=["ffc", "global"])
def test_numbers_and_running_statistics_stay_and_fewer_maps_are_kept(settings: dict[str, Any]) -> None:
    plain, expected, all_bytes = step(settings, checkpoint=False)
    twice, found, fewer_bytes = step(settings, checkpoint=True)
    assert torch.equal(found, expected)
    for (name, a), (_, b) in zip(plain.named_parameters(), twice.named_parameters(), strict=True):
        assert a.grad is not None
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), twice.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert any(isinstance(m, nn.BatchNorm2d) and int(m.num_batches_tracked) == 1 for m in twice.modules())
    assert fewer_bytes < 0.6 * all_bytes


def test_mixed_precision_gives_the_same_gradients() -> None:
    plain, expected, _ = step(FFC, checkpoint=False, mixed=True)
    twice, found, _ = step(FFC, checkpoint=True, mixed=True)
    assert torch.equal(found, expected)
    for (name, a), (_, b) in zip(plain.named_parameters(), twice.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_it_is_not_for_compiled_networks() -> None:
    with pytest.raises(InputError, match=r"training_model\.checkpoint_blocks: not with compile=true"):
        ModuleOptions(checkpoint_blocks=True, compile=True)
