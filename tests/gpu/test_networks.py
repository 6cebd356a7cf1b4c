"""Networks on the device: the official numbers, folded generators, gradients, the penalty twice differentiated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from saicinpainting.inference.fast.folding import fold
from saicinpainting.losses.adversarial import r1_penalty
from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.networks.base import set_memory_format
from saicinpainting.networks.conv_double_backward import DoubleBackwardConv2d
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.networks.resnet_encoder import ResNetEncoder
from tests.helpers import fill, golden_arrays, golden_values, rand
from tests.samples import CASES

# The golden outputs are float32 themselves; on a GPU sums are taken in another order.
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-5}
DTYPES = list(TOLERANCE)


def golden_generator(case: str) -> nn.Module:
    return fill(make_generator(**golden_values()[case.split(".")[0]])).train(".train." in case)


def golden_input(case: str) -> Tensor:
    batch, _, height, width = golden_arrays()[case].shape
    return rand(CASES[case], batch, 4, height, width)


def assert_golden(case: str, generator: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    with torch.no_grad():
        got = generator(golden_input(case).to(device, dtype))
    assert got.device == device
    torch.testing.assert_close(got.float().cpu(), golden_arrays()[case], rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["auto", "fft"])
@pytest.mark.parametrize("case", CASES)
def test_generators_are_golden(device: torch.device, case: str, backend: str, dtype: torch.dtype) -> None:
    generator = golden_generator(case)
    set_fft_backend(generator, backend)
    assert_golden(case, generator.to(device, dtype), device, dtype)


@pytest.mark.parametrize("case", [case for case in CASES if ".train." not in case])
def test_generators_in_channels_last_and_folded_on_either_side_are_golden(device: torch.device, case: str) -> None:
    generator = golden_generator(case)
    folded = fold(copy.deepcopy(generator)).to(device)  # type: ignore[arg-type]
    there = generator.to(device)
    folded_there = fold(there)  # type: ignore[arg-type]
    set_memory_format(there, torch.channels_last)
    for network in (there, folded, folded_there):
        for backend in ("products", "fft"):
            set_fft_backend(network, backend)
            assert_golden(case, network, device, torch.float32)


def test_a_folded_generator_in_strips_equals_the_whole(device: torch.device) -> None:
    folded = fold(golden_generator("ffc.64x64")).to(device)  # type: ignore[arg-type]
    x = rand(9, 1, 4, 192, 128).to(device)
    with torch.no_grad():
        whole = folded(x)
        folded.strip_pixels = 64 * 128
        torch.testing.assert_close(folded(x), whole, rtol=0, atol=2e-5)


@pytest.mark.costly
def test_discriminator_and_encoder_are_golden(device: torch.device) -> None:
    discriminator = fill(make_discriminator(**golden_values()["discriminator"])).eval().to(device)
    with torch.no_grad():
        score, _ = discriminator(rand(3, 2, 3, 64, 64).to(device))
    torch.testing.assert_close(score.cpu(), golden_arrays()["discriminator.score"], rtol=0, atol=5e-5)

    encoder = fill(ResNetEncoder("resnet50dilated")).eval().to(device)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        pred, real = (encoder(((rand(seed, 2, 3, 64, 64) - mean) / std).to(device)) for seed in (4, 5))
    loss = 30 * sum(torch.nn.functional.mse_loss(p, r).item() for p, r in zip(pred, real, strict=True))
    assert loss == pytest.approx(golden_values()["losses"]["resnet_pl(weight=30)"], rel=1e-4)


@pytest.mark.parametrize("case", ["ffc.64x64", "global.64x64"])
def test_gradients_equal_the_cpus(device: torch.device, case: str) -> None:
    gradients = []
    for where in (torch.device("cpu"), device):
        generator = golden_generator(case).double().to(where).train()
        set_memory_format(generator, torch.channels_last)
        generator(golden_input(case).double().to(where)).square().sum().backward()
        gradients.append([parameter.grad.cpu() for parameter in generator.parameters() if parameter.grad is not None])
    largest = max(gradient.abs().max() for gradient in gradients[0])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(largest))


def penalized_gradients(network: nn.Module, image: Tensor) -> list[Tensor]:
    real = image.clone().requires_grad_()
    score, _ = network(real)
    (nn.functional.softplus(-score).mean() + r1_penalty(score, real)).backward()
    return [parameter.grad.cpu() for parameter in network.parameters() if parameter.grad is not None]


def test_the_penaltys_gradient_is_that_of_plain_convolutions_on_the_cpu(device: torch.device) -> None:
    network = fill(make_discriminator(**golden_values()["discriminator"])).double().train()
    image = rand(6, 2, 3, 64, 64).double()
    plain = copy.deepcopy(network)
    for layer in plain.modules():
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
    assert any(isinstance(layer, DoubleBackwardConv2d) for layer in network.modules())
    expected = penalized_gradients(plain, image)
    largest = float(max(gradient.abs().max() for gradient in expected))
    for layout in (torch.contiguous_format, torch.channels_last):
        moved = copy.deepcopy(network).to(device)
        set_memory_format(moved, layout)
        found = penalized_gradients(moved, image.to(device).contiguous(memory_format=layout))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_penaltys_gradient_in_half_precision_is_near(device: torch.device, dtype: torch.dtype) -> None:
    network = fill(make_discriminator(**golden_values()["discriminator"])).train().to(device)
    image = rand(6, 2, 3, 64, 64).to(device)
    expected = penalized_gradients(copy.deepcopy(network), image)
    with torch.autocast(device.type, dtype):
        found = penalized_gradients(network, image)
    flat, reference = (torch.cat([gradient.flatten() for gradient in one]) for one in (found, expected))
    assert torch.nn.functional.cosine_similarity(flat, reference, dim=0) > 0.97
    assert flat.norm() / reference.norm() == pytest.approx(1, rel=0.1)
