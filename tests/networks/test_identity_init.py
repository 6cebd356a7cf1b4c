"""Generators whose encoder and decoder start as the identity, and norms that keep their statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from saicinpainting.networks import make_generator
from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.networks.ffc import FFCResNetGenerator
from saicinpainting.networks.initial_fill import fill_smoothly
from saicinpainting.utils import InputError
from tests.helpers import rand

SMALL: dict[str, Any] = {
    "kind": "ffc_resnet", "input_nc": 4, "output_nc": 3, "ngf": 24, "n_downsampling": 2, "n_blocks": 2,
    "add_out_act": False, "initial_fill": "pyramid", "identity_init": True,
    "init_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "downsample_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "resnet_conv_kwargs": {"ratio_gin": 0.75, "ratio_gout": 0.75, "enable_lfu": False},
}  # fmt: skip


def new_generator(**changes: Any) -> FFCResNetGenerator:
    torch.manual_seed(0)
    generator = make_generator(**{**SMALL, **changes})
    assert isinstance(generator, FFCResNetGenerator)
    return generator.train()


def holed(*, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    mask = torch.zeros(2, 1, *size)
    mask[..., 8:20, 8:30] = 1
    return torch.cat([rand(0, 2, 3, *size) * (1 - mask), mask], dim=1)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_new_generator_gives_its_fill_and_its_decoder_what_was_encoded(levels: int) -> None:
    generator = new_generator(n_downsampling=levels)
    x = holed()
    filled = torch.cat([fill_smoothly(x[:, :3], x[:, 3:]), x[:, 3:]], dim=1)
    assert torch.equal(generator(x), filled[:, :3])
    after_blocks = generator.model[generator.first_block + SMALL["n_blocks"] :]
    last = after_blocks[-1]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        for colour in range(3):
            last.weight[colour, colour, 3, 3] = 1
        torch.testing.assert_close(after_blocks(generator.encode(filled)), filled[:, :3], rtol=0, atol=1e-4)


def test_every_weight_learns_after_the_first_step() -> None:
    generator = new_generator()
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (generator(holed()) - 0.3).abs().mean().backward()
        optimizer.step()
    still = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_norms_keep_their_statistics_in_training_and_a_batch_does_not_matter() -> None:
    generator = new_generator()
    norms = [part for part in generator.modules() if isinstance(part, BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    x = holed()
    nn.init.normal_(generator.model[-1].get_parameter("weight"), std=0.1)
    alone, together = generator(x[:1]), generator(x)
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-5)
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    assert len(norms) > 10
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)
    assert all(norm.weight.requires_grad for norm in norms)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"ngf": 16}, "do not hold the pixels"), ({"initial_fill": None}, "initial_fill"), ({"out_ffc": True}, "out_ffc")],
)
def test_what_cannot_start_as_the_identity_is_named(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=rf"generator\.identity_init.*{word}"):
        new_generator(**changes, out_ffc_kwargs={"ratio_gin": 0, "ratio_gout": 0})
