"""The Fourier transform as matrix products, against `torch.fft`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks import dft
from saicinpainting.utils import InputError
from tests.helpers import fake_cuda

SIZES = [(32, 32), (8, 6), (7, 5), (6, 9), (1, 4), (2, 1), (1, 1)]
NORMS = ["ortho", "backward", "forward"]


def halves(spectrum: Tensor) -> Tensor:
    return torch.cat((spectrum.real, spectrum.imag), dim=1)


def double(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_transform_is_torchs(size, norm):
    x = double(0, 2, 3, *size)
    torch.testing.assert_close(dft.rfft2(x, norm=norm), halves(torch.fft.rfft2(x, norm=norm)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_inverse_is_torchs_for_any_spectrum(size, norm):
    """After a convolution and a ReLU a spectrum has no symmetry left."""
    height, width = size
    spectrum = double(1, 2, 6, height, width // 2 + 1)
    expected = torch.fft.irfft2(torch.complex(spectrum[:, :3], spectrum[:, 3:]), s=size, norm=norm)
    torch.testing.assert_close(dft.irfft2(spectrum, width=width, norm=norm), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_float32_is_exact_to_its_rounding(memory_format):
    x = double(2, 2, 8, 64, 64).float().contiguous(memory_format=memory_format)
    expected = halves(torch.fft.rfft2(x.double(), norm="ortho"))
    assert (dft.rfft2(x) - expected).abs().max() < 3e-6 * expected.abs().max()
    assert (dft.irfft2(dft.rfft2(x), width=64) - x).abs().max() < 3e-6 * x.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype):
    x = double(3, 1, 4, 32, 32)
    y = dft.rfft2(x.to(dtype))
    assert y.dtype == dtype
    expected = halves(torch.fft.rfft2(x, norm="ortho"))
    assert (y - expected).std() < 0.01 * expected.std()


@pytest.mark.parametrize("size", SIZES)
def test_with_hermitian_edges_the_inverse_fft_has_one_reading(size):
    """cuFFT may take the columns that mirror themselves from either half of the rows."""
    height, width = size
    spectrum = torch.view_as_complex(double(8, 2, 3, height, width // 2 + 1, 2))

    def inverse_of_whole(spectrum: Tensor) -> Tensor:
        """Without any assumption: the whole spectrum, its other half by symmetry, through a complex transform."""
        mirrored = spectrum.flip(-2).roll(1, -2).conj()
        others = mirrored[..., 1 : (width + 1) // 2].flip(-1)
        return torch.fft.ifft2(torch.cat([spectrum, others], dim=-1), norm="ortho")

    even = dft._with_hermitian_edges(spectrum, width)
    expected = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    whole = inverse_of_whole(even)
    torch.testing.assert_close(whole.real, expected, atol=1e-14, rtol=0)
    assert whole.imag.abs().max() < 1e-14
    if height > 2:
        assert inverse_of_whole(spectrum).imag.abs().max() > 0.01, "such a spectrum belongs to no real map"


def test_the_inverse_fft_makes_the_edges_hermitian_on_every_device_but_cpus():
    calls = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with fake_cuda() as device, Record():
        spectrum = torch.empty(1, 2, 8, 5, dtype=torch.complex64, device=device)
        result = dft.inverse_fft(spectrum, width=8)
    assert result.shape == (1, 2, 8, 8)
    assert calls.index("flip.default") < calls.index("_fft_c2r.default")
    calls.clear()
    with Record():
        dft.inverse_fft(torch.zeros(1, 2, 8, 5, dtype=torch.complex64), width=8)
    assert "flip.default" not in calls


def test_first_and_second_derivatives():
    x = double(4, 1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: dft.irfft2(dft.rfft2(x).square(), width=5).sin(), (x,))
    assert torch.autograd.gradcheck(lambda x: dft.irfft2(dft.rfft2(x).square(), width=5).sin(), (x,))


def test_channels_last_needs_no_copy():
    """In memory (B, H, W, C) goes in and comes out."""
    copies = []

    class CountCopies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default):
                copies.append(function)
            return function(*args, **(kwargs or {}))

    x = double(5, 2, 8, 16, 16)
    dft.rfft2(x)  # makes the matrices
    for map_, expected in ((x.to(memory_format=torch.channels_last), False), (x, True)):
        copies.clear()
        with CountCopies():
            spectrum = dft.rfft2(map_)
            result = dft.irfft2(spectrum, width=16)
        assert bool(copies) is expected
        assert spectrum.is_contiguous(memory_format=torch.channels_last)
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_matrices_are_made_once_per_size():
    like = torch.zeros(1)
    first = dft.dft_matrices(10, 12, norm="ortho", like=like)
    assert dft.dft_matrices(10, 12, norm="ortho", like=like).rows is first.rows
    for size in range(3, 3 + 2 * dft._CACHE_SIZE):
        dft.dft_matrices(size, size, norm="ortho", like=like)
    assert len(dft._CACHE) <= dft._CACHE_SIZE


def test_matrices_made_in_inference_serve_training():
    x = double(6, 1, 1, 11, 13)
    with torch.inference_mode():
        dft.rfft2(x.clone())
    dft.rfft2(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_an_unknown_norm_lists_the_known_ones():
    with pytest.raises(InputError, match="ortho"):
        dft.rfft2(double(7, 1, 1, 3, 3), norm="orto")


def test_threads_may_transform_maps_of_more_sizes_than_are_kept(monkeypatch):
    monkeypatch.setattr(dft, "_CACHE", {})
    monkeypatch.setattr(dft, "_CACHE_SIZE", 1)
    monkeypatch.setattr(dft, "_make_matrices", lambda *size_and_more: size_and_more[:2])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        like, sizes = torch.empty(0), [(height, 4) for height in range(1, 4)] * 3000
        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(lambda size: dft.dft_matrices(*size, norm="ortho", like=like), sizes))
    finally:
        sys.setswitchinterval(interval)
    assert made == sizes
