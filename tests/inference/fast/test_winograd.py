"""Winograd's convolution against the direct one in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saicinpainting.inference.fast import winograd
from saicinpainting.inference.fast.winograd import WinogradConv2d
from tests.helpers import fill, rand


def conv(**settings: Any) -> nn.Conv2d:
    return fill(nn.Conv2d(64, 96, 3, **settings))


def with_absolute_weights(layer: nn.Conv2d) -> nn.Conv2d:
    positive = copy.deepcopy(layer)
    for parameter in positive.parameters():
        parameter.data.abs_()
    return positive


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"padding": 1, "padding_mode": "reflect"}, (16, 16)),
        ({"padding": 1, "padding_mode": "replicate", "bias": False}, (17, 22)),
        ({"padding": 1}, (19, 35)),
        ({}, (18, 21)),
    ],
    ids=["reflect", "replicate", "zeros", "none"],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_direct_convolution(
    settings: dict[str, Any], size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    layer, x = conv(**settings), rand(1, 2, 64, *size).to(memory_format=memory_format) * 2 - 1
    with torch.no_grad():
        direct = layer(x)
        exact = layer.double()(x.double())
        added = nn.Conv2d.forward(with_absolute_weights(layer), x.double().abs())
        fast = WinogradConv2d.of(layer.float())(x)
    assert fast.shape == direct.shape
    assert not torch.equal(fast, direct)  # the fast way was taken
    # In roundings of the sum of what is added, of whatever sign; with the points 0, ±1, ±2 they are thirty.
    assert ((fast - exact).abs() / added).max() < 18 * 2**-24


def test_strips_of_tiles_are_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = rand(1, 2, 64, 38, 26), rand(2, 64, 64, 3, 3) - 0.5, rand(3, 64)
    whole = winograd.convolve(x, weight, bias)
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 12)  # two of the nine rows of six tiles
    torch.testing.assert_close(winograd.convolve(x, weight, bias), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole, F.conv2d(x, weight, bias), atol=1e-4, rtol=0)


def test_gradient_of_the_input() -> None:
    """Refinement asks for it; the weights are frozen there."""
    layer = conv(padding=1, padding_mode="reflect").requires_grad_(False)
    x = rand(1, 2, 64, 17, 20).requires_grad_()
    weights = rand(2, 2, 96, 17, 20) - 0.5

    def gradient(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        y = module.to(dtype)(x.to(dtype))
        return torch.autograd.grad((y.relu() * weights).sum(), x)[0]

    exact = gradient(layer, torch.float64)
    direct = gradient(layer, torch.float32)
    fast = gradient(WinogradConv2d.of(layer), torch.float32)
    assert not torch.equal(fast, direct)
    torch.testing.assert_close(fast, exact.float(), atol=1e-5, rtol=0)
    assert exact.abs().max() > 0.5


def test_other_uses_take_the_usual_way() -> None:
    layer = conv(padding=1)
    x = rand(1, 1, 64, 16, 16)
    expected, exact = layer(x), layer.double()(x.double())
    layer = WinogradConv2d.of(layer.float())
    assert torch.equal(layer(x), expected)  # gradients may be asked for
    with torch.no_grad():
        assert torch.equal(layer(x[:, :, :8, :8]), nn.Conv2d.forward(layer, x[:, :, :8, :8]))  # too small
        assert torch.equal(torch.jit.trace(layer, x)(x), expected)
        exported = torch.export.export(layer, (x,)).graph
        assert [node.target for node in exported.nodes if "conv" in str(node.target)] == [torch.ops.aten.conv2d.default]
        assert torch.equal(layer.double()(x.double()), exact)
    assert layer(x.double()).requires_grad


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 32, 3),
        nn.ConvTranspose2d(64, 64, 3),
        nn.ReLU(),
    ],
)
def test_layers_that_it_is_not_for(layer: nn.Module) -> None:
    assert not WinogradConv2d.fits(layer)
