"""Weights cast for a layer at once, against autocast's own casts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks import make_generator
from saicinpainting.networks.casting import casts_weights, weights_in_autocast_dtype
from tests.helpers import fill, golden_values, rand


class Casts(TorchDispatchMode):
    """How often weights are cast one by one, and together."""

    def __init__(self, weights) -> None:
        super().__init__()
        self.shapes = {tuple(weight.shape) for weight in weights if weight.dim() == 4}
        self.single = self.together = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name == "_to_copy" and tuple(args[0].shape) in self.shapes:
            self.single += 1
        self.together += name == "_foreach_copy_"
        return function(*args, **(kwargs or {}))


def generator() -> nn.Module:
    return fill(make_generator(**{**golden_values()["ffc"], "n_blocks": 2})).train()


def test_a_generator_has_the_output_and_the_gradients_of_autocast(monkeypatch):
    ours, theirs, x = generator(), generator(), rand(0, 2, 4, 64, 64)
    results = []
    for network in (ours, theirs):
        if network is theirs:
            monkeypatch.setattr("saicinpainting.networks.casting._CAST", ())
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            y = network(x)
        y.square().mean().backward()
        results.append((y, [parameter.grad for parameter in network.parameters()]))
    (ours_y, ours_gradients), (theirs_y, theirs_gradients) = results
    assert torch.equal(ours_y, theirs_y)
    for ours_, theirs_ in zip(ours_gradients, theirs_gradients, strict=True):
        assert ours_.dtype == torch.float32
        assert torch.equal(ours_, theirs_)


def test_weights_are_cast_once_a_layer_in_each_direction():
    network = generator()
    with Casts(network.parameters()) as casts, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        network(rand(0, 2, 4, 64, 64)).mean().backward()
    layers = sum(
        any(isinstance(p, (nn.Conv2d, nn.ConvTranspose2d)) for p in layer.modules()) for layer in network.model
    )
    assert (casts.single, casts.together) == (0, 2 * layers)


def test_the_weights_are_the_networks_own_again_even_after_an_error():
    conv = nn.Conv2d(1, 1, 1)
    weight = conv.weight

    def fail() -> None:
        with torch.autocast("cpu", torch.bfloat16), weights_in_autocast_dtype(conv, torch.device("cpu")):
            assert conv.weight.dtype == torch.bfloat16
            conv(torch.zeros(1, 2, 4, 4))

    with pytest.raises(RuntimeError, match="channels"):
        fail()
    assert conv.weight is weight
    assert [name for name, _ in conv.named_parameters()] == ["weight", "bias"]


def test_weights_are_cast_under_autocast_only_and_only_those_that_need_it():
    assert not casts_weights(torch.device("cpu"))
    conv = nn.Conv2d(1, 1, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert casts_weights(torch.device("cpu"))
        with weights_in_autocast_dtype(conv, torch.device("cpu")):
            assert conv.weight.is_leaf
