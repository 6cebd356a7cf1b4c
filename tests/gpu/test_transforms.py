"""Fourier transforms on the device against NumPy's in float64, of spectra that belong to no real map too."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from saicinpainting.inference.fast.folding import FoldedFourierUnit
from saicinpainting.networks import dft
from saicinpainting.networks.fourier import FourierUnit, set_fft_backend
from tests.helpers import fill, rand

LARGE = [pytest.param(size, marks=pytest.mark.costly) for size in ((256, 256), (512, 512))]
SIZES = [(32, 32), (64, 64), (128, 128), (33, 47), (96, 41), (1, 6), *LARGE]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}  # of the largest number
DTYPES = list(TOLERANCE)


def assert_near(value: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (value.cpu().double() - expected.double()).abs().max()
    assert error <= tolerance * expected.abs().max(), f"off by {error:.2e} of {expected.abs().max():.2e}"


def spectrum_of_no_map(height: int, width: int) -> np.ndarray:
    """(2, 3, H, W // 2 + 1) without any symmetry, as a convolution and a ReLU leave it."""
    parts = (rand(seed, 2, 3, height, width // 2 + 1).double().numpy() - 0.3 for seed in (1, 2))
    real, imaginary = (np.maximum(part, 0) for part in parts)
    return real + 1j * imaginary


def halves(spectrum: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([spectrum.real, spectrum.imag], axis=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_transforms_equal_numpys(device: torch.device, size: tuple[int, int], dtype: torch.dtype) -> None:
    x = rand(3, 2, 3, *size).double() - 0.5
    expected = halves(np.fft.rfft2(x.numpy(), norm="ortho"))
    moved = x.to(device, dtype)
    assert_near(dft.rfft2(moved), expected, TOLERANCE[dtype])
    fft = torch.fft.rfft2(moved, norm="ortho")
    assert_near(torch.cat([fft.real, fft.imag], dim=1), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_inverses_of_a_spectrum_without_symmetry_equal_numpys(
    device: torch.device, size: tuple[int, int], dtype: torch.dtype
) -> None:
    spectrum = spectrum_of_no_map(*size)
    expected = torch.from_numpy(np.fft.irfft2(spectrum, s=size, norm="ortho"))
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    by_fft = dft.inverse_fft(torch.from_numpy(spectrum).to(device, complex_dtype), width=size[1])
    assert_near(by_fft, expected, TOLERANCE[dtype])
    by_products = dft.irfft2(halves(spectrum).to(device, dtype), width=size[1])
    assert_near(by_products, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_of_the_inverses_are_the_transform(device: torch.device, size: tuple[int, int]) -> None:
    """d<y, g>/dz is the transform of g, counted twice where a column stands for its mirror image too."""
    height, width = size
    spectrum, g = spectrum_of_no_map(height, width), rand(4, 2, 3, height, width).double()
    twice = np.full(width // 2 + 1, 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    expected = np.fft.rfft2(g.numpy(), norm="ortho") * twice

    z = torch.from_numpy(spectrum).to(device).requires_grad_()
    (dft.inverse_fft(z, width=width) * g.to(device)).sum().backward()
    assert z.grad is not None
    assert_near(torch.view_as_real(z.grad), torch.view_as_real(torch.from_numpy(expected)), 1e-12)
    parts = halves(spectrum).to(device).requires_grad_()
    (dft.irfft2(parts, width=width) * g.to(device)).sum().backward()
    assert parts.grad is not None
    assert_near(parts.grad, halves(expected), 1e-12)


def by_numpy(unit: FourierUnit, x: Tensor) -> Tensor:
    """The unit in evaluation mode, by its definition (Chi et al. 2020, section 3), in float64."""
    state = {name: tensor.double().numpy() for name, tensor in unit.state_dict().items()}
    spectrum = np.fft.rfft2(x.double().numpy(), norm="ortho")
    channels = np.stack([spectrum.real, spectrum.imag], axis=2).reshape(len(x), -1, *spectrum.shape[2:])
    mixed = np.einsum("oi,bihw->bohw", state["conv_layer.weight"][:, :, 0, 0], channels)
    scale = state["bn.weight"] / np.sqrt(state["bn.running_var"] + unit.bn.eps)
    mixed = (mixed - state["bn.running_mean"][:, None, None]) * scale[:, None, None] + state["bn.bias"][:, None, None]
    mixed = np.maximum(mixed, 0)
    mixed = mixed[:, ::2] + 1j * mixed[:, 1::2]
    return torch.from_numpy(np.fft.irfft2(mixed, s=x.shape[2:], norm="ortho"))


@pytest.mark.parametrize("backend", ["fft", "products", "auto"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fourier_units_equal_their_definition(device: torch.device, size: tuple[int, int], backend: str) -> None:
    unit = fill(FourierUnit(4, 6)).eval()
    x = rand(5, 2, 4, *size) - 0.5
    expected = by_numpy(unit, x)
    for network in (copy.deepcopy(unit), FoldedFourierUnit(copy.deepcopy(unit))):
        network = network.to(device)
        set_fft_backend(network, backend)
        for layout in (torch.contiguous_format, torch.channels_last):
            with torch.no_grad():
                y = network(x.to(device).contiguous(memory_format=layout))
            assert_near(y, expected, 1e-5)


@pytest.mark.parametrize("backend", ["fft", "products"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), *LARGE], ids=str)
def test_gradients_of_a_training_unit_equal_the_cpus(device: torch.device, size: tuple[int, int], backend: str) -> None:
    gradients = []
    for where in (torch.device("cpu"), device):
        unit = fill(FourierUnit(3, 3)).double().to(where).train()
        set_fft_backend(unit, "fft" if where.type == "cpu" else backend)
        x = (rand(5, 2, 3, *size).double() - 0.5).to(where).requires_grad_()
        unit(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in unit.parameters())])
    for expected, found in zip(*gradients, strict=True):
        assert_near(found, expected, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["fft", "products"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)], ids=str)
def test_half_precision_is_near(device: torch.device, size: tuple[int, int], backend: str, dtype: torch.dtype) -> None:
    unit = fill(FourierUnit(4, 6)).eval()
    x = rand(5, 2, 4, *size) - 0.5
    expected = by_numpy(unit, x)
    unit = unit.to(device)
    set_fft_backend(unit, backend)
    with torch.no_grad(), torch.autocast(device.type, dtype):
        y = unit(x.to(device, dtype))
    assert y.dtype == dtype
    assert_near(y.float(), expected, 0.02 if dtype == torch.bfloat16 else 0.003)
