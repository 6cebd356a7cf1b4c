"""Reflected borders against `F.pad`, and what a GPU is asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks import padding
from saicinpainting.networks.padding import Conv2d, ReflectionPad2d, reflect_pad
from tests.helpers import fake_cuda, rand

PADDINGS = [(1, 1, 1, 1), (3, 3, 3, 3), (0, 2, 4, 1)]


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.partition(".")[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch):
    """A map of `torch.Tensor`'s values that says it is not on a CPU."""

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    # The indices of the deterministic form have to be where the values are.
    monkeypatch.setattr(padding, "_reflected", lambda *a, _real=padding._reflected: _real(*a[:3], torch.device("cpu")))
    return lambda x: x.as_subclass(Elsewhere)


@pytest.mark.parametrize("sides", PADDINGS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("deterministic", [False, True])
def test_every_way_gives_the_same_numbers(sides, memory_format, deterministic, elsewhere):
    x = rand(0, 2, 5, 7, 6).double().contiguous(memory_format=memory_format).requires_grad_()
    expected = F.pad(x, sides, mode="reflect")
    weights = rand(1, *expected.shape).double()
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.use_deterministic_algorithms(deterministic)
    try:
        result = reflect_pad(elsewhere(x), sides).as_subclass(torch.Tensor)
    finally:
        torch.use_deterministic_algorithms(False)
    (gradient,) = torch.autograd.grad((result * weights).sum(), x)
    assert torch.equal(result, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-15, atol=1e-15)


def test_on_a_gpu_channels_last_stays_so():
    with fake_cuda() as device, Operators() as operators:
        x = torch.empty(2, 8, 16, 16, device=device).contiguous(memory_format=torch.channels_last)
        y = ReflectionPad2d(3)(x)
    assert y.shape == (2, 8, 22, 22)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert "reflection_pad3d" in operators.names
    assert "reflection_pad2d" not in operators.names


def test_where_determinism_is_asked_for_no_reflection_is_dispatched():
    torch.use_deterministic_algorithms(True)
    try:
        with fake_cuda() as device, Operators() as operators:
            conv = Conv2d(4, 4, 3, padding=1, padding_mode="reflect", device=device)
            conv(torch.empty(1, 4, 8, 8, device=device))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not [name for name in operators.names if name.startswith("reflection_pad")]
    assert "index" in operators.names


def test_a_convolution_with_reflected_borders_is_pytorchs():
    for settings in ({"padding": 2, "dilation": 2}, {"padding": 1, "stride": 2}, {"padding": (0, 1)}):
        conv = Conv2d(4, 6, 3, padding_mode="reflect", **settings)
        x = rand(2, 1, 4, 9, 10)
        assert torch.equal(conv(x), torch.nn.Conv2d.forward(conv, x))
        pads = torch.nn.Conv2d._conv_forward(conv, x, conv.weight, conv.bias)
        assert torch.equal(conv(x), pads)


def test_autocast_on_cpus_pads_as_it_is():
    x = rand(3, 1, 2, 6, 6).bfloat16()
    with Operators() as operators, torch.autocast("cpu", torch.bfloat16):
        y = reflect_pad(x, (1, 1, 1, 1))
        assert torch.is_autocast_enabled("cpu")
    assert operators.names == ["reflection_pad2d"]
    assert torch.equal(y.float(), F.pad(x.float(), (1, 1, 1, 1), mode="reflect"))
