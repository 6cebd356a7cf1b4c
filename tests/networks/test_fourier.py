"""Fourier unit and spectral transform against explicit matrices, closed forms and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saicinpainting.networks import fourier
from saicinpainting.networks.ffc import FourierUnit, SELayer, SpectralTransform
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.utils import InputError
from tests.helpers import fill, rand


def dft(n: int) -> np.ndarray:
    """Unitary matrix of the discrete Fourier transform."""
    k = np.arange(n)
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


def real_inverse(half: np.ndarray, width: int) -> np.ndarray:
    """Real signal along the last axis of non-negative frequencies: every frequency that has a mirror counts twice."""
    frequency, position = np.arange(half.shape[-1]), np.arange(width)
    weight = np.where((frequency == 0) | (2 * frequency == width), 1, 2) / np.sqrt(width)
    wave = np.exp(2j * np.pi * np.outer(frequency, position) / width)
    return np.real(half @ (weight[:, None] * wave))


def reference_unit(unit: FourierUnit, x: np.ndarray) -> np.ndarray:
    """The unit in evaluation mode by matrix products, channel by channel, in double precision."""
    _, channels, height, width = x.shape
    spectrum = (dft(height) @ x @ dft(width))[..., : width // 2 + 1]
    rows = [part for c in range(channels) for part in (spectrum[:, c].real, spectrum[:, c].imag)]
    weight = unit.conv_layer.weight.detach().numpy()[:, :, 0, 0]
    y = np.einsum("oi,bihw->bohw", weight, np.stack(rows, axis=1))
    bn = unit.bn
    mean, var, scale, shift = (
        t.detach().numpy()[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    y = np.maximum((y - mean) / np.sqrt(var + bn.eps) * scale + shift, 0)
    return real_inverse(dft(height).conj() @ (y[:, 0::2] + 1j * y[:, 1::2]), width)


BACKENDS = ["fft", "products"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (5, 7), (2, 9), (4, 4)])
def test_unit_equals_matrix_products(height: int, width: int, backend: str) -> None:
    unit = fill(FourierUnit(3, 5)).double().eval()
    set_fft_backend(unit, backend)
    x = rand(0, 2, 3, height, width).double() - 0.5
    want = reference_unit(unit, x.numpy())
    torch.testing.assert_close(unit(x).detach(), torch.from_numpy(want), rtol=0, atol=1e-12)


def test_unit_with_identity_kernel_keeps_an_impulse() -> None:
    # The spectrum of an impulse at the origin is real and positive, so ReLU lets it pass.
    unit = FourierUnit(2, 2).eval()
    with torch.no_grad():
        unit.conv_layer.weight.copy_(torch.eye(4)[:, :, None, None])
    x = torch.zeros(1, 2, 6, 8)
    x[:, :, 0, 0] = 1
    torch.testing.assert_close(unit(x), x / math.sqrt(1 + unit.bn.eps), rtol=0, atol=1e-6)


def test_fft_norm() -> None:
    # With the kernel and batch norm linear in the input and zero shift, only the total scale of both transforms
    # counts, and all three conventions agree on it.
    ortho, backward = (fill(FourierUnit(2, 2, fft_norm=norm)).eval() for norm in ("ortho", "backward"))
    for unit in (ortho, backward):
        unit.bn.running_mean.zero_()
        torch.nn.init.zeros_(unit.bn.bias)
    x = rand(1, 1, 2, 8, 8)
    torch.testing.assert_close(ortho(x), backward(x), rtol=0, atol=1e-5)
    torch.nn.init.ones_(backward.bn.bias)
    torch.nn.init.ones_(ortho.bn.bias)
    assert not torch.allclose(ortho(x), backward(x), atol=1e-2)


def test_positional_channels_stand_in_front() -> None:
    # A kernel that passes only the two coordinates: real part = row, imaginary part = column of the frequency.
    unit = FourierUnit(1, 1, spectral_pos_encoding=True).eval()
    with torch.no_grad():
        unit.conv_layer.weight.zero_()
        unit.conv_layer.weight[0, 0] = unit.conv_layer.weight[1, 1] = 1
    rows, columns = np.linspace(0, 1, 6), np.linspace(0, 1, 5)
    spectrum = (rows[:, None] + 1j * columns) / math.sqrt(1 + unit.bn.eps)
    want = real_inverse(dft(6).conj() @ spectrum, 8)
    got = unit(rand(0, 1, 1, 6, 8))[0, 0].detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_spatial_scale_resizes_around_the_plain_unit() -> None:
    for mode, corners in (("bilinear", False), ("nearest", None)):
        scaled = fill(FourierUnit(2, 2, spatial_scale_factor=0.5, spatial_scale_mode=mode)).eval()
        plain = fill(FourierUnit(2, 2)).eval()
        x = rand(0, 1, 2, 8, 12)
        small = torch.nn.functional.interpolate(x, size=(4, 6), mode=mode, align_corners=corners)
        want = torch.nn.functional.interpolate(plain(small), size=(8, 12), mode=mode, align_corners=corners)
        torch.testing.assert_close(scaled(x), want, rtol=0, atol=1e-6)


def test_squeeze_excitation_closed_form() -> None:
    layer = SELayer(2, reduction=1)
    with torch.no_grad():
        layer.fc[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        layer.fc[2].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    x = torch.tensor([[0.0, 2.0], [-4.0, -2.0]]).reshape(1, 2, 1, 2)
    # means (1, -3); hidden relu(1, 3); gates sigmoid(3), sigmoid(2)
    gates = 1 / (1 + torch.exp(-torch.tensor([3.0, 2.0])))
    torch.testing.assert_close(layer(x), x * gates.reshape(1, 2, 1, 1))


def test_unit_with_constant_gates() -> None:
    # A zero last layer makes every gate one half, which is the plain unit with half the kernel.
    plain = fill(FourierUnit(4, 3)).eval()
    gated = fill(FourierUnit(4, 3, use_se=True, se_kwargs={"reduction": 4})).eval()
    assert gated.se.fc[0].weight.shape == (2, 8)
    with torch.no_grad():
        gated.se.fc[2].weight.zero_()
        plain.conv_layer.weight.mul_(0.5)
    x = rand(0, 2, 4, 6, 6)
    torch.testing.assert_close(gated(x), plain(x), rtol=0, atol=1e-6)


def test_unknown_squeeze_excitation_setting() -> None:
    with pytest.raises(InputError, match=r"se_kwargs\.reductoin: .*did you mean 'reduction'"):
        FourierUnit(4, 4, use_se=True, se_kwargs={"reductoin": 2})


def test_unit_is_twice_differentiable() -> None:
    # The R1 penalty and refinement both differentiate through spectra.
    unit = fill(FourierUnit(2, 2)).double().eval()
    x = (rand(3, 1, 2, 4, 5).double() - 0.5).requires_grad_(True)
    assert torch.autograd.gradcheck(unit, (x,))
    assert torch.autograd.gradgradcheck(unit, (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"spectral_pos_encoding": True, "use_se": True}])
def test_unit_in_half_precision(dtype: torch.dtype, options: dict[str, bool]) -> None:
    unit = fill(FourierUnit(8, 8, **options)).eval()
    x = rand(1, 1, 8, 6, 10)  # no powers of two
    with torch.no_grad():
        want = unit(x)
        with torch.autocast("cpu", dtype=dtype):
            under_autocast = unit(x)
        pure = unit.to(dtype)(x.to(dtype))
    assert pure.dtype == dtype
    for got in (under_autocast, pure):
        torch.testing.assert_close(got.float(), want, rtol=0, atol=0.05)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 10)])
def test_local_unit_sees_quadrants(height: int, width: int) -> None:
    transform = fill(SpectralTransform(6, 16, enable_lfu=True)).eval()
    x = rand(0, 2, 6, height, width)
    with torch.no_grad():
        hidden = transform.conv1(x)
        part, h, w = hidden[:, :2], height // 2, width // 2
        quadrants = [part[..., :h, :w], part[..., h:, :w], part[..., :h, w:], part[..., h:, w:]]
        local = transform.lfu(torch.cat(quadrants, dim=1))
        tiled = torch.cat([torch.cat([local, local], dim=-1)] * 2, dim=-2)
        want = transform.conv2(hidden + transform.fu(hidden) + tiled)
        torch.testing.assert_close(transform(x), want, rtol=0, atol=1e-6)


def test_local_unit_refuses_what_has_no_quadrants() -> None:
    transform = SpectralTransform(8, 8, enable_lfu=True)
    with pytest.raises(InputError, match="5x4"):
        transform(rand(0, 1, 8, 5, 4))
    with pytest.raises(InputError, match="multiples of 8, got 12"):
        SpectralTransform(12, 12, enable_lfu=True)
    SpectralTransform(8, 8, enable_lfu=False)(rand(0, 2, 8, 5, 4))


def test_stride_two_averages_first() -> None:
    strided = fill(SpectralTransform(4, 8, stride=2, enable_lfu=False)).eval()
    plain = fill(SpectralTransform(4, 8, enable_lfu=False)).eval()
    x = rand(0, 1, 4, 8, 12)
    means = x.reshape(1, 4, 4, 2, 6, 2).mean(dim=(3, 5))
    torch.testing.assert_close(strided(x), plain(means), rtol=0, atol=1e-6)


OPTIONS = [
    {},
    {"spectral_pos_encoding": True},
    {"use_se": True, "se_kwargs": {"reduction": 4}},
    {"spectral_pos_encoding": True, "use_se": True, "se_kwargs": {"reduction": 2}},
    {"groups": 2},
    {"spatial_scale_factor": 0.5},
    {"fft_norm": "backward"},
]


def both_backends(unit: torch.nn.Module, x: torch.Tensor) -> list[list[torch.Tensor]]:
    """For each backend the result, the gradients by input and weights, and the running statistics after it."""
    state = {name: tensor.clone() for name, tensor in unit.state_dict().items()}
    results = []
    for backend in BACKENDS:
        unit.load_state_dict(state)
        unit.zero_grad()
        set_fft_backend(unit, backend)
        x = x.detach().requires_grad_()
        y = unit(x)
        (y * rand(99, *y.shape).to(y)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in unit.parameters()), *unit.buffers()])
    return [[tensor.detach().clone() for tensor in result] for result in results]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_backends_compute_the_same(options: dict) -> None:
    unit = fill(FourierUnit(8, 8, **options)).double()
    for by_fft, by_products in zip(*both_backends(unit, rand(1, 2, 8, 12, 10).double() - 0.5), strict=True):
        torch.testing.assert_close(by_products, by_fft, rtol=1e-9, atol=1e-10)


def test_both_backends_compute_the_same_in_float32_with_local_unit() -> None:
    transform = fill(SpectralTransform(64, 64, enable_lfu=True)).to(memory_format=torch.channels_last)
    x = (rand(2, 2, 64, 32, 32) - 0.5).to(memory_format=torch.channels_last)
    for by_fft, by_products in zip(*both_backends(transform, x), strict=True):
        assert (by_products - by_fft).abs().max() <= 2e-5 * by_fft.abs().max() + 1e-6


@pytest.mark.parametrize("reorder", [fourier._halves, fourier._interleave])
def test_channels_are_reordered_within_channels_last(reorder) -> None:
    """Another layout would cost a copy before the products."""
    spectrum = rand(6, 2, 8, 5, 3).to(memory_format=torch.channels_last)
    assert reorder(spectrum).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fourier._interleave(fourier._halves(spectrum)), spectrum, rtol=0, atol=0)
    assert fourier._halves(torch.arange(6).view(1, 6, 1, 1)).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_the_switch_reaches_every_unit_and_the_names_stay() -> None:
    transform = SpectralTransform(16, 16, enable_lfu=True)
    names = list(transform.state_dict())
    for backend in fourier.FFT_BACKENDS:
        set_fft_backend(transform, backend)
        assert {transform.fu.fft_backend, transform.lfu.fft_backend} == {backend}
        assert list(transform.state_dict()) == names
    with pytest.raises(InputError, match="fft_backend: unknown value 'ftt'; known: auto, fft, products"):
        set_fft_backend(transform, "ftt")


@pytest.mark.parametrize(
    ("size", "dtype", "by_fft"),
    [
        (16, torch.float32, False),
        (18, torch.float32, True),
        (18, torch.bfloat16, False),
        (96, torch.bfloat16, False),
        (98, torch.bfloat16, True),
    ],
)
def test_auto_takes_products_for_small_maps_and_the_fft_for_large(monkeypatch, size, dtype, by_fft) -> None:
    calls = []
    rfft2 = torch.fft.rfft2
    monkeypatch.setattr(torch.fft, "rfft2", lambda *args, **kwargs: (calls.append(1), rfft2(*args, **kwargs))[1])
    FourierUnit(2, 2).eval().to(dtype)(rand(3, 1, 2, size, 8).to(dtype))
    assert bool(calls) is by_fft


@pytest.mark.slow
def test_no_complex_number_and_no_graph_break_under_compile() -> None:
    torch._dynamo.reset()
    unit = fill(FourierUnit(4, 4))
    graphs = []

    def look(graph, _):
        graphs.append(graph)
        return graph.forward

    x = rand(4, 2, 4, 8, 8)
    compiled = torch.compile(unit, backend=look, fullgraph=True)(x)
    assert len(graphs) == 1
    assert "fft" not in graphs[0].code
    assert "complex" not in graphs[0].code
    unit.load_state_dict(fill(FourierUnit(4, 4)).state_dict())
    torch.testing.assert_close(compiled, unit(x))


def test_bfloat16_stays_near_float32() -> None:
    unit = fill(FourierUnit(32, 32)).eval()
    x = rand(5, 1, 32, 32, 32) - 0.5
    with torch.no_grad():
        exact = unit(x)
        half = unit.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).std() < 0.03 * exact.std()
