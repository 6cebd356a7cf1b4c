"""Second derivatives of the discriminator's convolutions, against PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.losses.adversarial import r1_penalty
from saicinpainting.networks.conv_double_backward import DoubleBackwardConv2d
from saicinpainting.networks.pix2pixhd import NLayerDiscriminator
from tests.helpers import fill, rand

CONVOLUTIONS = {
    "discriminator": {"kernel_size": 4, "stride": 2, "padding": 2},
    "stride 1": {"kernel_size": 4, "stride": 1, "padding": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2, "bias": False},
    "dilated": {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "padding": (0, 1)},
}


@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_derivatives_of_any_order_are_right(settings: dict) -> None:
    torch.manual_seed(0)
    conv = DoubleBackwardConv2d(4, 6, **settings).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    parameters = tuple(conv.parameters())

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        names = dict(zip(dict(conv.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(conv, names, (x,)).sin()

    assert torch.equal(function(x, *parameters), nn.Conv2d.forward(conv, x).sin())
    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


def plain(discriminator: nn.Module) -> nn.Module:
    """A copy whose convolutions are PyTorch's."""
    copied = copy.deepcopy(discriminator)
    for part in copied.modules():
        if type(part) is DoubleBackwardConv2d:
            part.__class__ = nn.Conv2d
    return copied


def penalised_gradients(discriminator: nn.Module, image: Tensor) -> Iterator[Tensor]:
    real = image.detach().requires_grad_()
    score, _ = discriminator(real)
    (F.softplus(-score).mean() + 0.001 * r1_penalty(score, real)).backward()
    for parameter in discriminator.parameters():
        assert parameter.grad is not None
        yield parameter.grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_penalty_has_pytorchs_gradients(memory_format: torch.memory_format) -> None:
    ours = fill(NLayerDiscriminator(3, ndf=8, n_layers=3)).double().to(memory_format=memory_format)
    theirs = plain(ours)
    image = rand(0, 2, 3, 48, 40).double().contiguous(memory_format=memory_format)
    pairs = zip(penalised_gradients(ours, image), penalised_gradients(theirs, image), strict=True)
    for ours_, theirs_ in pairs:
        torch.testing.assert_close(ours_, theirs_, rtol=1e-12, atol=1e-13)


def test_autocast_gives_what_it_gives_pytorchs_convolutions() -> None:
    ours = fill(NLayerDiscriminator(3, ndf=8, n_layers=3))
    theirs, image = plain(ours), rand(0, 2, 3, 48, 40)
    with torch.autocast("cpu", torch.bfloat16):
        score = ours(image.requires_grad_())[0]
        assert score.dtype == torch.bfloat16
        assert torch.equal(score, theirs(image)[0])
        mine, others = list(penalised_gradients(ours, image)), list(penalised_gradients(theirs, image))
    for ours_, theirs_ in zip(mine, others, strict=True):
        assert ours_.dtype == theirs_.dtype == torch.float32
        torch.testing.assert_close(ours_, theirs_, rtol=0.05, atol=0.05 * float(theirs_.abs().max()))


class LargestKernel(TorchDispatchMode):
    """The longest side of a kernel that a forward convolution was given."""

    def __init__(self) -> None:
        super().__init__()
        self.side = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function == torch.ops.aten.convolution.default:
            self.side = max(self.side, *args[1].shape[2:])
        return function(*args, **(kwargs or {}))


def test_no_backward_pass_convolves_with_a_kernel_as_large_as_an_image() -> None:
    ours = fill(NLayerDiscriminator(3, ndf=4, n_layers=4))
    for discriminator, expected in ((ours, 4), (plain(ours), 33)):
        with LargestKernel() as largest:
            list(penalised_gradients(discriminator, rand(0, 2, 3, 64, 64)))
        assert largest.side >= expected if expected > 4 else largest.side == 4
