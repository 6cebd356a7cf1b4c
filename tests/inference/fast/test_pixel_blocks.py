"""Blocks of pixels against the pixels one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saicinpainting.inference.fast.pixel_blocks import PixelBlockConv2d
from tests.helpers import fill, rand


@pytest.mark.parametrize(("channels", "kernel", "bias"), [(3, 7, True), (1, (3, 5), False), (4, 2, True)])
@pytest.mark.parametrize("size", [(20, 26), (21, 20), (7, 33)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_usual_convolution(channels, kernel, bias, size, memory_format) -> None:
    layer = fill(nn.Conv2d(8, channels, kernel, bias=bias)).double()
    x = (rand(1, 2, 8, *size).double() - 0.5).to(memory_format=memory_format).requires_grad_()
    expected = layer(x)
    weights = rand(2, *expected.shape).double() - 0.5
    gradients = torch.autograd.grad((expected * weights).sum(), [x, layer.weight])
    assert PixelBlockConv2d.fits(layer)
    y = PixelBlockConv2d.of(layer)(x)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    for ours, theirs in zip(torch.autograd.grad((y * weights).sum(), [x, layer.weight]), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a_block_is_one_product_of_the_convolution() -> None:
    layer = PixelBlockConv2d.of(fill(nn.Conv2d(8, 3, 7)))
    with torch.profiler.profile(record_shapes=True) as profile:
        layer(rand(1, 1, 8, 20, 26))
    sizes = [event.input_shapes[1] for event in profile.events() if event.name == "aten::conv2d"]
    assert sizes == [[12, 8, 8, 8]]


@pytest.mark.parametrize(
    "settings",
    [
        {"out_channels": 8},
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2, "out_channels": 2},
        {"padding": 3},
        {"kernel_size": 1},
    ],
)
def test_other_convolutions_do_not_fit(settings) -> None:
    assert not PixelBlockConv2d.fits(nn.Conv2d(**{"in_channels": 8, "out_channels": 3, "kernel_size": 7, **settings}))


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch cannot tell it from an export")
def test_compiled_code_has_blocks_too() -> None:
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(str(module.graph))
        return module

    layer, x = PixelBlockConv2d.of(fill(nn.Conv2d(8, 3, 7))), rand(1, 1, 8, 16, 16)
    torch.testing.assert_close(torch.compile(layer, backend=backend)(x), layer(x))
    assert len(graphs) == 1
    assert "pixel_shuffle" in graphs[0]


def test_other_uses_take_the_usual_way() -> None:
    layer, x = fill(nn.Conv2d(8, 3, 7)), rand(1, 1, 8, 16, 16)
    expected = layer(x)
    layer = PixelBlockConv2d.of(layer)
    assert torch.equal(torch.jit.trace(layer, x)(x), expected)
    graph = torch.export.export(layer, (x,)).graph
    assert not [node for node in graph.nodes if "shuffle" in str(node.target)]
    assert torch.equal(layer(x[0]), expected[0])
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        layer(x[:, :, :6])
    # Another device.
    with torch.profiler.profile(record_shapes=True) as profile:
        assert layer.to("meta")(x.to("meta")).shape == expected.shape
    assert [event.input_shapes[1] for event in profile.events() if event.name == "aten::conv2d"] == [[3, 8, 7, 7]]
