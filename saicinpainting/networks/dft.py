"""The real 2-D Fourier transform as products with fixed cosine and sine matrices, and the FFT's inverse on any device.

At the sizes of feature maps a transform is two small dense products per direction. No complex number appears: real and
imaginary parts are channels, so the transform runs in half precision and on matrix units, fuses under `torch.compile`,
exports as plain matrix products, and can be differentiated as often as one likes.

Both transforms work on (B, H, W, C) in memory, the layout `channels_last`: there the products need no copy in between.
The formulas are the definitions of the discrete Fourier transform, X_kl = Σ_hw x_hw exp(-2πi(hk/H + wl/W)), and of its
inverse, written out in real numbers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from saicinpainting.utils import InputError, did_you_mean

NORMS = ("backward", "ortho", "forward")


class DFTMatrices(NamedTuple):
    """What the four products multiply by, for maps of H x W with L = W // 2 + 1 columns of frequencies.

    rows: (2H, H), from h to (k, part), where part 0 is real and 1 imaginary.
    columns: (2L, 2W), from (part, w) to (l, part).
    inverse_columns: (2W, 2L), from (l, part) to (part, w).
    inverse_rows: (H, 2H), from (k, part) to h.
    """

    rows: Tensor
    columns: Tensor
    inverse_columns: Tensor
    inverse_rows: Tensor


Key: TypeAlias = tuple[int, int, str, torch.dtype, torch.device]
_CACHE: dict[Key, DFTMatrices] = {}
_CACHE_SIZE = 64  # prediction meets many sizes
_LOCK = threading.Lock()
_constants: dict[Key, DFTMatrices] | None = None


@contextmanager
def constant_matrices() -> Iterator[None]:
    """Within, an exporter sees the matrices of the sizes that were computed within before as constants."""
    global _constants
    _constants = {}
    try:
        yield
    finally:
        _constants = None


def dft_matrices(height: int, width: int, *, norm: str, like: Tensor) -> DFTMatrices:
    """The matrices for maps of `height` x `width`, of the type and on the device of `like`; `norm` as in `torch.fft`.

    Kept for the next call of that size.
    """
    # Compilers and exporters see how they are made, instead of tensors of unknown origin.
    if _constants is None and (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        return _make_matrices(height, width, norm, like)
    key = (height, width, norm, like.dtype, like.device)
    if _constants is not None:
        if key not in _constants:
            _constants[key] = _make_matrices(height, width, norm, like)
        return _constants[key]
    with _LOCK:  # threads fill images of many sizes
        if key not in _CACHE:
            if len(_CACHE) >= _CACHE_SIZE:
                _CACHE.pop(next(iter(_CACHE)))
            # Not as inference tensors, which a later training step could not use.
            with torch.inference_mode(False), torch.no_grad():
                _CACHE[key] = _make_matrices(height, width, norm, like)
        return _CACHE[key]


def _make_matrices(height: int, width: int, norm: str, like: Tensor) -> DFTMatrices:
    if norm not in NORMS:
        raise InputError(f"fft_norm: unknown value {norm!r}; {did_you_mean(norm, NORMS)}")
    if like.device.type == "mps":  # knows no float64
        made = _make_matrices(height, width, norm, torch.empty(0, dtype=like.dtype))
        return DFTMatrices(*(matrix.to(like.device) for matrix in made))
    columns = width // 2 + 1
    cos_h, sin_h = _cos_sin(height, height, like)  # (k, h)
    cos_w, sin_w = _cos_sin(columns, width, like)  # (l, w)
    # The spectrum of a real map is symmetric: the half that is left out counts by its mirror image.
    # Written without a condition on the width, which exporters do not know.
    frequency = indices(columns, like)[:, None]
    twice = 2.0 - (frequency == 0).double() - (2 * frequency == width).double()
    cos_i, sin_i = twice * cos_w, twice * sin_w

    def block(re_to_re: Tensor, re_to_im: Tensor, im_to_re: Tensor, im_to_im: Tensor) -> Tensor:
        """(out, in) each to (part, out, part, in)."""
        return torch.stack((torch.stack((re_to_re, im_to_re), 1), torch.stack((re_to_im, im_to_im), 1)))

    forward_scale, inverse_scale = _scales(height * width, norm)
    rows = torch.stack((cos_h, -sin_h), 1).flatten(0, 1) * forward_scale
    to_columns = block(cos_w, -sin_w, sin_w, cos_w).transpose(0, 1).flatten(2).flatten(0, 1)
    from_columns = block(cos_i.T, sin_i.T, -sin_i.T, cos_i.T).transpose(2, 3).flatten(2).flatten(0, 1)
    inverse_rows = torch.stack((cos_h.T, -sin_h.T), -1).flatten(1) * inverse_scale
    return DFTMatrices(*(m.to(like.dtype) for m in (rows, to_columns, from_columns, inverse_rows)))


def indices(size: int, like: Tensor) -> Tensor:
    """`torch.arange(size)` that follows `like` in exported graphs too, which keep the device an `arange` was given."""
    return like.new_ones(size, dtype=torch.int64).cumsum(0) - 1


def _cos_sin(frequencies: int, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2π·k·n/N in float64, (frequencies, positions)."""
    k = indices(frequencies, like)[:, None]
    turns = (k * indices(positions, like)).double() / positions
    # Whole turns off; not as a remainder of integers, which ONNX exporters want to know beforehand.
    angle = (turns - turns.floor()) * (2 * math.pi)
    return angle.cos(), angle.sin()


def _scales(size: int, norm: str) -> tuple[float, float]:
    """Factors of the transform and of its inverse."""
    return {"backward": (1.0, 1 / size), "ortho": (size**-0.5, size**-0.5), "forward": (1 / size, 1.0)}[norm]


def rfft2(x: Tensor, *, norm: str = "ortho") -> Tensor:
    """(B, C, H, W) real to (B, 2C, H, W // 2 + 1): the C real parts of `torch.fft.rfft2(x)`, then the imaginary."""
    batch, channels, height, width = x.shape
    matrices = dft_matrices(height, width, norm=norm, like=x)
    z = matrices.rows @ x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    z = matrices.columns @ z.view(batch * height, 2 * width, channels)
    return z.view(batch, height, width // 2 + 1, 2 * channels).permute(0, 3, 1, 2)


def irfft2(spectrum: Tensor, *, width: int, norm: str = "ortho") -> Tensor:
    """The inverse of `rfft2`: (B, 2C, H, width // 2 + 1) to (B, C, H, width).

    As `torch.fft.irfft2`, of a spectrum that belongs to no real map it takes the part that does.
    """
    batch, parts, height, columns = spectrum.shape
    channels = parts // 2
    matrices = dft_matrices(height, width, norm=norm, like=spectrum)
    z = matrices.inverse_columns @ spectrum.permute(0, 2, 3, 1).reshape(batch * height, 2 * columns, channels)
    z = matrices.inverse_rows @ z.view(batch, 2 * height, width * channels)
    return z.view(batch, height, width, channels).permute(0, 3, 1, 2)


def inverse_fft(spectrum: Tensor, *, width: int, norm: str = "ortho") -> Tensor:
    """`torch.fft.irfft2` with the same result on every device: (B, C, H, width // 2 + 1) complex to (B, C, H, width).

    A spectrum that has been through a convolution belongs to no real map. CPUs and NumPy then invert the columns and
    ignore what the rows cannot use: the imaginary parts of frequency 0 and, for an even width, of the highest one.
    cuFFT's single two-dimensional transform is undefined for such input. Making these two columns Hermitian first,
    (z_k + conj z_-k) / 2, leaves the CPU's result as it is and gives every device the same one.
    """
    if spectrum.device.type != "cpu":
        spectrum = _with_hermitian_edges(spectrum, width)
    return torch.fft.irfft2(spectrum, s=(spectrum.shape[-2], width), norm=norm)


def _with_hermitian_edges(spectrum: Tensor, width: int) -> Tensor:
    """`spectrum` (B, C, H, width // 2 + 1) with the columns that are their own mirror images made Hermitian in H."""
    last = spectrum.shape[-1] - (1 if width % 2 == 0 and width > 1 else 0)  # where the inner columns end
    parts = [_hermitian(spectrum[..., :1]), spectrum[..., 1:last], _hermitian(spectrum[..., max(last, 1) :])]
    return torch.cat(parts, dim=-1)


def _hermitian(column: Tensor) -> Tensor:
    """(z_k + conj z_-k) / 2 along the second to last axis."""
    mirrored = column.flip(-2).roll(1, -2)
    return (column + mirrored.conj()) / 2
