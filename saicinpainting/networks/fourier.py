"""Convolutions in the frequency domain: the global branch of a fast Fourier convolution.

Fast Fourier Convolution (Chi, Jiang, Mu, NeurIPS 2020), section 3; with the changes of LaMa (Suvorov et al.,
WACV 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.networks import dft
from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.utils import InputError, call_with_settings, did_you_mean

FFTBackend = Literal["auto", "fft", "products"]
FFT_BACKENDS = get_args(FFTBackend)


@dataclass(frozen=True, kw_only=True)
class FourierOptions:
    """How Fourier units compute; none of it changes a result but its rounding. Keys of the section `training_model`.

    Args:
        fft_backend: by `torch.fft` (`fft`), by products of matrices (`products`), or by the faster of them for each
            size (`auto`).
    """

    fft_backend: FFTBackend = "auto"


class SELayer(nn.Module):
    """Squeeze and excitation: each channel times a gate in (0, 1) computed from all channels' means.

    Squeeze-and-Excitation Networks (Hu et al. 2018), eq. 2-4. `x`: (B, C, H, W), the result likewise.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(dim=(-2, -1)))[..., None, None]


class TransformingModule(nn.Module):
    """A module that transforms by FFT or by products, as its `fft_backend` (see `set_fft_backend`) and sizes decide."""

    def __init__(self) -> None:
        super().__init__()
        self.fft_backend = "auto"

    def uses_products(self, x: Tensor) -> bool:
        if self.fft_backend != "auto":
            return self.fft_backend == "products"
        return max(x.shape[-2:]) <= _largest_for_products(x)


class FourierUnit(TransformingModule):
    """1x1 convolution, batch norm and ReLU on the spectrum of the feature map.

    `x`: (B, in_channels, H, W) to (B, out_channels, H, W). The spectrum enters the convolution with real and
    imaginary parts as channels in turn: c0.re, c0.im, c1.re, ...

    Args:
        spatial_scale_factor: resize by this factor before, and back after.
        spatial_scale_mode: interpolation mode of the resizing.
        spectral_pos_encoding: two more channels in front, the vertical and the horizontal frequency in 0..1.
        use_se, se_kwargs: `SELayer` on the spectrum, and its settings.
        fft_norm: normalisation of the transform, as in `torch.fft`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        spatial_scale_factor: float | None = None,
        spatial_scale_mode: str = "bilinear",
        spectral_pos_encoding: bool = False,
        use_se: bool = False,
        se_kwargs: Mapping[str, Any] | None = None,
        *,
        fft_norm: str = "ortho",
    ) -> None:
        super().__init__()
        spectrum_channels = 2 * in_channels + (2 if spectral_pos_encoding else 0)
        self.conv_layer = nn.Conv2d(spectrum_channels, 2 * out_channels, kernel_size=1, groups=groups, bias=False)
        self.bn = BatchNorm2d(2 * out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se: nn.Module | None = None
        if use_se:
            self.se = call_with_settings(partial(SELayer, spectrum_channels), se_kwargs or {}, where="se_kwargs")
        self.spatial_scale_factor = spatial_scale_factor
        self.spatial_scale_mode = spatial_scale_mode
        self.spectral_pos_encoding = spectral_pos_encoding
        self.fft_norm = fft_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial_scale_factor is None:
            return self._transform(x)
        small = self._resize(x, scale_factor=self.spatial_scale_factor)
        return self._resize(self._transform(small), size=x.shape[-2:])

    def _transform(self, x: Tensor) -> Tensor:
        return self._with_products(x) if self.uses_products(x) else self._with_fft(x)

    def _with_fft(self, x: Tensor) -> Tensor:
        # There is no half-precision transform for every size and device, so that part runs in float32.
        fft_dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        spectrum = _to_channels(torch.fft.rfft2(x.to(fft_dtype), norm=self.fft_norm)).to(x.dtype)
        spectrum = self._mix(spectrum)
        y = dft.inverse_fft(_to_complex(spectrum.to(fft_dtype)), width=x.shape[-1], norm=self.fft_norm)
        return y.to(x.dtype)

    def _with_products(self, x: Tensor) -> Tensor:
        spectrum = dft.rfft2(x, norm=self.fft_norm)
        if self.se is None and self.conv_layer.groups == 1:
            spectrum = self._mix_halves(spectrum)
        else:
            spectrum = self._mix(_interleave(spectrum))
        return dft.irfft2(_halves(spectrum), width=x.shape[-1], norm=self.fft_norm)

    def _mix(self, spectrum: Tensor) -> Tensor:
        """The layers on a spectrum (B, 2C, h, w) of channels c0.re, c0.im, c1.re, ..."""
        if self.spectral_pos_encoding:
            spectrum = torch.cat((_coordinates(spectrum), spectrum), dim=1)
        if self.se is not None:
            spectrum = self.se(spectrum)
        return self.relu(self.bn(self.conv_layer(spectrum)))

    def _mix_halves(self, spectrum: Tensor) -> Tensor:
        """`_mix` of a spectrum with the real parts first: its order is changed in the kernel, not in the map."""
        kernel = self.conv_layer.weight
        coordinates, parts = kernel[:, : -spectrum.shape[1]], kernel[:, -spectrum.shape[1] :]
        if self.spectral_pos_encoding:
            spectrum = torch.cat((_coordinates(spectrum), spectrum), dim=1)
        return self.relu(self.bn(F.conv2d(spectrum, torch.cat((coordinates, _halves(parts)), dim=1))))

    def _resize(self, x: Tensor, *, scale_factor: float | None = None, size: torch.Size | None = None) -> Tensor:
        # Modes that look at one pixel or at areas take no `align_corners`.
        corners = False if self.spatial_scale_mode in ("bilinear", "bicubic") else None
        return F.interpolate(
            x, size=size, scale_factor=scale_factor, mode=self.spatial_scale_mode, align_corners=corners
        )


def _to_channels(spectrum: Tensor) -> Tensor:
    """(B, C, h, w) complex to (B, 2C, h, w): c0.re, c0.im, c1.re, ..."""
    return torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3).flatten(1, 2)


def _to_complex(channels: Tensor) -> Tensor:
    """Inverse of `_to_channels`."""
    pairs = channels.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2)
    return torch.view_as_complex(pairs.contiguous())


def _halves(channels: Tensor) -> Tensor:
    """(B, 2C, h, w) with c0.re, c0.im, c1.re, ... to c0.re, c1.re, ..., c0.im, c1.im, ..."""
    return _in_turn(channels, (-1, 2))


def _interleave(channels: Tensor) -> Tensor:
    """Inverse of `_halves`."""
    return _in_turn(channels, (2, -1))


def _in_turn(channels: Tensor, groups: tuple[int, int]) -> Tensor:
    """Channels numbered (i, j) in the order (j, i); the result is in channels_last, which `dft` takes as it is."""
    pairs = channels.permute(0, 2, 3, 1).unflatten(-1, groups)
    return pairs.transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


def _largest_for_products(x: Tensor) -> int:
    """The largest side up to which products are faster than the FFT, by device and precision of `x`."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return 256
    # On CPUs an FFT in float32 is hard to beat; in half precision it has to go by way of float32.
    return 96 if x.dtype in (torch.float16, torch.bfloat16) else 16


def set_fft_backend(module: nn.Module, backend: str) -> None:
    """Let the Fourier units inside `module` transform as `FourierOptions` says."""
    if backend not in FFT_BACKENDS:
        raise InputError(f"fft_backend: unknown value {backend!r}; {did_you_mean(backend, FFT_BACKENDS)}")
    for unit in module.modules():
        if isinstance(unit, TransformingModule):
            unit.fft_backend = backend


def _coordinates(spectrum: Tensor) -> Tensor:
    """(B, 2, h, w): row and column of each frequency, both from 0 to 1."""
    zeros = torch.zeros_like(spectrum[:, :1])
    rows, columns = (_from_0_to_1(size, spectrum) for size in spectrum.shape[2:])
    return torch.cat([zeros + rows[:, None], zeros + columns], dim=1)


def _from_0_to_1(size: int, like: Tensor) -> Tensor:
    """`torch.linspace(0, 1, size)`, which exporters write for one size and one device only."""
    steps = dft.indices(size, like).to(torch.promote_types(like.dtype, torch.float32))
    return (steps / steps[-1:].clamp(min=1)).to(like.dtype)


class SpectralTransform(nn.Module):
    """Fourier unit(s) between two 1x1 convolutions, at half the channels, with a residual connection.

    `x`: (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride). With `enable_lfu` a second (local)
    Fourier unit sees the four quadrants of the first quarter of the channels side by side as channels, and its
    result is repeated over the four quadrants. The other settings are those of `FourierUnit`; the local unit
    takes none of them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        groups: int = 1,
        enable_lfu: bool = True,
        **fourier_kwargs: Any,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        if enable_lfu and hidden % 4:
            raise InputError(
                f"enable_lfu: the local Fourier unit needs global channels in multiples of 8, got {out_channels}; "
                "change ngf or the ratio, or set enable_lfu to false"
            )
        self.downsample = nn.AvgPool2d(kernel_size=2, stride=2) if stride == 2 else nn.Identity()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=1, groups=groups, bias=False),
            BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.fu = FourierUnit(hidden, hidden, groups, **fourier_kwargs)
        self.lfu = FourierUnit(hidden, hidden, groups) if enable_lfu else None
        self.conv2 = nn.Conv2d(hidden, out_channels, kernel_size=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.downsample(x))
        y = x + self.fu(x)
        if self.lfu is not None:
            y = y + self.lfu(_quadrants(x[:, : x.shape[1] // 4])).repeat(1, 1, 2, 2)
        return self.conv2(y)


def _quadrants(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 4C, H/2, W/2): top left, bottom left, top right, bottom right."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        raise InputError(
            f"enable_lfu: the local Fourier unit halves its feature map, which is {height}x{width}; "
            "pad the image so that both sides are even there, or set enable_lfu to false"
        )
    left_right = torch.cat(x.chunk(2, dim=-2), dim=1).chunk(2, dim=-1)
    return torch.cat(left_right, dim=1)
