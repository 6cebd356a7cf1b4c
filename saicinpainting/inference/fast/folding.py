"""Generators for prediction: what training keeps apart is multiplied out, and full resolution goes in strips.

A folded generator computes what the original computes in evaluation mode, to rounding. Batch norms are in the
convolutions; of a fast Fourier convolution the local branches that read the same map are one convolution; the spectrum
has its real parts first, so that no channel changes its place on the way; 3x3 convolutions are `WinogradConv2d`, the
one to RGB is a `PixelBlockConv2d`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from saicinpainting.inference.fast.pixel_blocks import PixelBlockConv2d
from saicinpainting.inference.fast.winograd import WinogradConv2d
from saicinpainting.networks import GENERATORS, dft
from saicinpainting.networks.base import Features, Generator, is_exporting
from saicinpainting.networks.batch_norm import fold_batch_norms
from saicinpainting.networks.ffc import FFC_BN_ACT, ConcatTupleLayer, Pair
from saicinpainting.networks.fourier import FourierUnit, SpectralTransform, TransformingModule

STRIP_PIXELS = 1 << 18
"""Pixels of a strip, about, of all images of a batch; up to twice as many go whole."""
DECODER_HALO = 4
"""Rows of features beyond a strip: the decoder looks at less than three rows far."""
LOCAL = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.ReflectionPad2d, ConcatTupleLayer),
    *(nn.BatchNorm2d, nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Identity),
)
"""Layers of which a pixel depends on its neighbourhood only; norms of others may take statistics of the image."""


def fold(generator: Generator) -> FoldedGenerator:
    """`generator` for prediction, a new module in evaluation mode without gradients; the original stays as it is.

    A copy of one that is no `Generator`, or one with methods of its own: in what order these use their layers is not
    known.
    """
    copied: Any = copy.deepcopy(generator).eval().requires_grad_(False)
    if not isinstance(copied, Generator) or copied.has_own("forward", "encode", "decode", "filled", "finished"):
        return copied
    _fold_children(copied)
    fold_batch_norms(copied)
    for part in copied.modules():
        for fast in (WinogradConv2d, PixelBlockConv2d):
            if fast.fits(part):
                fast.of(part)
    return FoldedGenerator(copied).eval().requires_grad_(False)


class FoldedGenerator(nn.Module):
    """`forward`, `encode` and `decode` as the generator's; large images in strips where that is exact.

    strips: whether it is: a generator of ours, whose layers around the residual blocks see their neighbourhood only.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.size_multiple, self.min_size = generator.size_multiple, generator.min_size
        self.first_block = generator.first_block
        self.strip_pixels = STRIP_PIXELS
        layers = list(generator.model)
        upsampling = (i for i, layer in enumerate(layers) if isinstance(layer, nn.ConvTranspose2d))
        self._after_blocks = next(upsampling, len(layers))
        outer = [*layers[: self.first_block], *layers[self._after_blocks :]]
        self.strips = isinstance(generator, tuple(GENERATORS.values())) and not any(map(_looks_far, outer))
        # The 7x7 convolution of the stem looks 3 rows far, the halvings together one less than the sizes' multiple.
        self._encoder_halo = max(2 * self.size_multiple, 3)

    @property
    def model(self) -> nn.Sequential:
        """All layers, cut at `first_block` as the generator's are."""
        return self.generator.model

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (B, input_nc, H, W) to (B, output_nc, H, W)."""
        x = self.filled(x)
        return self.finished(self.decode(self.encode(x)), x)

    def filled(self, x: Tensor) -> Tensor:
        return self.generator.filled(x)

    def finished(self, y: Tensor, x: Tensor) -> Tensor:
        return self.generator.finished(y, x)

    def encode(self, x: Tensor) -> Features:
        generator = self.generator
        generator._check_size(x)
        layers = generator.model[: self.first_block]
        return self._in_strips(layers, x, halo=self._encoder_halo, scale=1 / generator.stride)

    def decode(self, features: Features) -> Tensor:
        model = self.generator.model
        y = model[self.first_block : self._after_blocks](features)
        return self._in_strips(model[self._after_blocks :], y, halo=DECODER_HALO, scale=self.generator.stride)

    def _in_strips(self, layers: Callable[[Any], Any], x: Tensor, *, halo: int, scale: float) -> Any:
        """layers(x); a strip of rows after the other where `x` is large. scale: rows out to rows in."""
        pixels = x.shape[0] * x.shape[-2] * x.shape[-1] * max(1, scale) ** 2
        tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if tracing or not self.strips or torch.is_grad_enabled() or pixels <= 2 * self.strip_pixels:
            return layers(x)
        height = x.shape[-2]
        step = max(round(height * self.strip_pixels / pixels) // self.size_multiple, 1) * self.size_multiple
        whole: Any = None
        for top in range(0, height, step):
            bottom = min(top + step, height)
            first, last = max(top - halo, 0), min(bottom + halo, height)
            part = layers(x[:, :, first:last])
            rows = slice(round(top * scale), round(bottom * scale))
            own = slice(rows.start - round(first * scale), rows.stop - round(first * scale))
            if whole is None:
                whole = tree_map_only(Tensor, lambda t: _empty_like(t, rows=round(height * scale)), part)
            for out, made in zip(_tensors(whole), _tensors(part), strict=True):
                out[:, :, rows] = made[:, :, own]
        return whole


def _empty_like(strip: Tensor, *, rows: int) -> Tensor:
    """A map of so many rows; on GPUs in the strip's layout, which all that follows has then."""
    last = strip.stride(1) == 1 and strip.device.type != "cpu"
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (*strip.shape[:2], rows, strip.shape[3])
    return torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=layout)


def _tensors(features: Features) -> list[Tensor]:
    return [half for half in tree_leaves(features) if half is not None]


def _looks_far(layer: nn.Module) -> bool:
    """Whether a pixel of the result may depend on more than the neighbourhood."""
    parts = list(layer.modules())
    leaves = [part for part in parts if not list(part.children())]
    return any(isinstance(part, TransformingModule) for part in parts) or not all(isinstance(x, LOCAL) for x in leaves)


# ---- folding -------------------------------------------------------------------------------------------------------


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        folded = child
        if isinstance(child, FFC_BN_ACT) and FoldedFFC.fits(child):
            folded = FoldedFFC(child)
        elif isinstance(child, FourierUnit) and FoldedFourierUnit.fits(child):
            folded = FoldedFourierUnit(child)
        else:
            _fold_children(child)
        setattr(module, name, folded)


class FoldedFFC(nn.Module):
    """`FFC_BN_ACT` with its norms in the kernels, and l2l and l2g, which read the same map, as one convolution.

    `x`: a pair, or a tensor where there are no global channels; returns a pair.
    """

    @staticmethod
    def fits(layer: FFC_BN_ACT) -> bool:
        norms, activations = (layer.bn_l, layer.bn_g), (layer.act_l, layer.act_g)
        return (
            not layer.ffc.gated
            and layer.ffc.groups == 1
            and all(isinstance(norm, (nn.BatchNorm2d, nn.Identity)) for norm in norms)
            and all(isinstance(activation, (nn.ReLU, nn.Identity)) for activation in activations)
        )

    def __init__(self, layer: FFC_BN_ACT) -> None:
        super().__init__()
        ffc = layer.ffc
        norm_l, norm_g = (_Affine.of(norm) for norm in (layer.bn_l, layer.bn_g))
        branches = ((ffc.convl2l, norm_l), (ffc.convl2g, norm_g))
        from_local = [(conv, norm) for conv, norm in branches if isinstance(conv, nn.Conv2d)]
        self.from_local = _merged(from_local) if from_local else None
        self.splits = tuple(conv.out_channels if isinstance(conv, nn.Conv2d) else 0 for conv, _ in branches)
        # Each half's shift is added once: by the local branch if there is one.
        rest_l = _Affine(norm_l.scale, None if self.splits[0] else norm_l.shift)
        rest_g = _Affine(norm_g.scale, None if self.splits[1] else norm_g.shift)
        self.from_global: nn.Conv2d | None = None
        if isinstance(ffc.convg2l, nn.Conv2d):
            self.from_global = _merged([(ffc.convg2l, rest_l)])
        self.spectral: SpectralTransform | None = None
        if isinstance(ffc.convg2g, SpectralTransform):
            self.spectral = ffc.convg2g
            _fold_children(self.spectral)
            self.spectral.conv2 = _merged([(self.spectral.conv2, rest_g)])
        self.activation_l, self.activation_g = layer.act_l, layer.act_g

    def forward(self, x: Tensor | Pair) -> Pair:
        x_l, x_g = x if isinstance(x, tuple) else (x, None)
        local: Tensor | None = None
        global_: Tensor | None = None
        if x_l is not None and self.from_local is not None:
            both = self.from_local(x_l)
            # Not split into a half and nothing, which is a layer too much for OpenCV.
            halves = both.split(self.splits, dim=1) if all(self.splits) else [both if n else None for n in self.splits]
            local, global_ = halves
        if x_g is not None and self.from_global is not None:
            local = _added(self.from_global(x_g), local)
        if x_g is not None and self.spectral is not None:
            global_ = _added(self.spectral(x_g), global_)
        return _activated(self.activation_l, local), _activated(self.activation_g, global_)


def _added(fresh: Tensor, other: Tensor | None) -> Tensor:
    """fresh + other, in place where nothing needs `fresh` for a gradient."""
    if other is None:
        return fresh
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def _activated(activation: nn.Module, half: Tensor | None) -> Tensor | None:
    """activation(half), which may be in place; in the views that split() gave not for a gradient or an export.

    Exporters write a change within a view as a scatter, which few runtimes know.
    """
    if half is None:
        return None
    copies = (half.requires_grad or is_exporting()) and half._is_view()
    return activation(half.clone() if copies else half)


@dataclass(frozen=True)
class _Affine:
    """What a batch norm in evaluation mode does to each channel, in float64; None: nothing."""

    scale: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(cls, norm: nn.Module) -> _Affine:
        if not isinstance(norm, nn.BatchNorm2d):
            return cls()
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() * scale
        if norm.affine:
            scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
        return cls(scale, shift)


def _merged(convs: Sequence[tuple[nn.Conv2d, _Affine]]) -> nn.Conv2d:
    """The convolutions of one map as one, each followed by its affine change."""
    kernels, biases = [], []
    for conv, norm in convs:
        kernel = conv.weight.double()
        bias = kernel.new_zeros(len(kernel)) if conv.bias is None else conv.bias.double()
        if norm.scale is not None:
            kernel, bias = kernel * norm.scale[:, None, None, None], bias * norm.scale
        kernels.append(kernel)
        biases.append(bias if norm.shift is None else bias + norm.shift)
    merged = copy.copy(convs[0][0])
    merged._parameters = {}
    dtype = convs[0][0].weight.dtype
    merged.weight = nn.Parameter(torch.cat(kernels).to(dtype), requires_grad=False)
    merged.bias = nn.Parameter(torch.cat(biases).to(dtype), requires_grad=False)
    merged.out_channels = len(merged.weight)
    return merged


class FoldedFourierUnit(TransformingModule):
    """`FourierUnit` with its norm in the kernel, and a spectrum of the real parts and then the imaginary."""

    @staticmethod
    def fits(unit: FourierUnit) -> bool:
        plain = unit.se is None and unit.conv_layer.groups == 1 and not unit.spectral_pos_encoding
        return plain and unit.spatial_scale_factor is None

    def __init__(self, unit: FourierUnit) -> None:
        super().__init__()
        self.conv = _merged([(unit.conv_layer, _Affine.of(unit.bn))])
        for parameter in (self.conv.weight, self.conv.bias):
            assert parameter is not None
            parameter.data = torch.cat([parameter[::2], parameter[1::2]])
        self.conv.weight.data = torch.cat([self.conv.weight[:, ::2], self.conv.weight[:, 1::2]], dim=1)
        self.fft_norm, self.fft_backend = unit.fft_norm, unit.fft_backend

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if self.uses_products(x):
            spectrum = F.relu(self.conv(dft.rfft2(x, norm=self.fft_norm)), inplace=True)
            return dft.irfft2(spectrum, width=width, norm=self.fft_norm)
        # There is no half-precision transform for every size and device, so that part runs in float32.
        dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        parts = torch.fft.rfft2(x.to(dtype), norm=self.fft_norm)
        spectrum = torch.cat([parts.real, parts.imag], dim=1).to(x.dtype)
        del parts
        spectrum = F.relu(self.conv(spectrum), inplace=True).to(dtype)
        mixed = torch.complex(*spectrum.chunk(2, dim=1))
        return dft.inverse_fft(mixed, width=width, norm=self.fft_norm).to(x.dtype)
