"""Fast Fourier convolutions and the generator `ffc_resnet` made of them (Suvorov et al., WACV 2022, section 2.1).

A layer works on a pair (x_l, x_g): local channels, seen by 3x3 convolutions, and global channels, seen by a
`SpectralTransform`. A missing half is `None`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from saicinpainting.networks.base import (
    PADDING_MODES,
    Generator,
    NormLayer,
    channels_per_level,
    choose,
    get_norm_layer,
    output_activation,
    upsampling,
)
from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.networks.fourier import FourierUnit, SELayer, SpectralTransform
from saicinpainting.networks.identity_init import start_as_identity
from saicinpainting.networks.initial_fill import get_initial_fill
from saicinpainting.networks.padding import Conv2d, ReflectionPad2d
from saicinpainting.utils import InputError, check_known_keys, check_whole

__all__ = [
    "FFC",
    "FFC_BN_ACT",
    "ConcatTupleLayer",
    "FFCResNetGenerator",
    "FFCResnetBlock",
    "FourierUnit",
    "SELayer",
    "SpectralTransform",
]

Pair = tuple[Tensor | None, Tensor | None]


class FFC(nn.Module):
    """One fast Fourier convolution (FFC paper, eq. 1): local = l2l + g2l, global = l2g + spectral transform.

    `x`: a pair of (B, C, H, W) tensors, or one tensor where there are no global channels; returns a pair. A
    branch without input or output channels is an `nn.Identity` that is never called.

    Args:
        ratio_gin, ratio_gout: share of the input and output channels that is global.
        enable_lfu: local Fourier unit, see `SpectralTransform`.
        padding_type: how the 3x3 convolutions pad.
        gated: two gates in (0, 1), from a 1x1 convolution over all input channels, scale g2l and l2g.
        spatial_scale_factor ... fft_norm: see `FourierUnit`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        enable_lfu: bool = True,
        padding_type: str = "reflect",
        gated: bool = False,
        *,
        spatial_scale_factor: float | None = None,
        spatial_scale_mode: str = "bilinear",
        spectral_pos_encoding: bool = False,
        use_se: bool = False,
        se_kwargs: Mapping[str, Any] | None = None,
        fft_norm: str = "ortho",
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise InputError(f"FFC stride: expected 1 or 2, got {stride}; the spectral transform knows no other")
        in_cg, out_cg = int(in_channels * ratio_gin), int(out_channels * ratio_gout)
        in_cl, out_cl = in_channels - in_cg, out_channels - out_cg
        if gated and not (in_cg and out_cl):
            raise InputError(
                "gated: the gates scale what goes between the global and the local channels, but there are "
                f"{in_cg} global inputs and {out_cl} local outputs; set gated to false or change the ratios"
            )
        padding_mode = choose(PADDING_MODES, padding_type, where="padding_type")

        def conv(c_in: int, c_out: int) -> nn.Module:
            if not (c_in and c_out):
                return nn.Identity()
            return Conv2d(c_in, c_out, kernel_size, stride, padding, dilation, groups, bias, padding_mode=padding_mode)

        self.convl2l = conv(in_cl, out_cl)
        self.convl2g = conv(in_cl, out_cg)
        self.convg2l = conv(in_cg, out_cl)
        self.convg2g: nn.Module = nn.Identity()
        if in_cg and out_cg:
            self.convg2g = SpectralTransform(
                in_cg,
                out_cg,
                stride=stride,
                groups=1 if groups == 1 else groups // 2,
                enable_lfu=enable_lfu,
                spatial_scale_factor=spatial_scale_factor,
                spatial_scale_mode=spatial_scale_mode,
                spectral_pos_encoding=spectral_pos_encoding,
                use_se=use_se,
                se_kwargs=se_kwargs,
                fft_norm=fft_norm,
            )
        self.gate = nn.Conv2d(in_channels, 2, kernel_size=1) if gated else nn.Identity()
        self.gated, self.groups = gated, groups
        self.ratio_gin, self.ratio_gout = ratio_gin, ratio_gout
        self.global_in_num, self.global_out_num = in_cg, out_cg

    def forward(self, x: Tensor | Pair) -> Pair:
        x_l, x_g = _as_pair(x)
        g2l_gate, l2g_gate = self._gates(x_l, x_g) if self.gated else (None, None)
        l2l, l2g = self._from_local(x_l, l2g_gate, merged=x_g is not None)
        out_l = _add(l2l, _branch(self.convg2l, x_g, gate=g2l_gate))
        out_g = _add(l2g, _branch(self.convg2g, x_g))
        return out_l, out_g

    def _from_local(self, x_l: Tensor | None, gate: Tensor | None, *, merged: bool) -> Pair:
        """What the local channels contribute to each half.

        Both convolutions read the same map: as one they pad it once and give the same numbers, bit for bit. Their
        results are then parts of one tensor, which suits only those that something is added to (`merged`).
        """
        l2l, l2g = self.convl2l, self.convl2g
        if x_l is None or gate is not None or not (merged and self.groups == 1 and _is_plain(l2l) and _is_plain(l2g)):
            return _branch(l2l, x_l), _branch(l2g, x_l, gate=gate)
        bias = None if l2l.bias is None or l2g.bias is None else torch.cat([l2l.bias, l2g.bias])
        out = l2l._conv_forward(x_l, torch.cat([l2l.weight, l2g.weight]), bias)
        out_l, out_g = out.split([l2l.out_channels, l2g.out_channels], dim=1)
        return out_l, out_g

    def _gates(self, x_l: Tensor | None, x_g: Tensor | None) -> tuple[Tensor, Tensor]:
        """Two maps (B, 1, H, W) in (0, 1)."""
        both = torch.cat([half for half in (x_l, x_g) if half is not None], dim=1)
        g2l_gate, l2g_gate = torch.sigmoid(self.gate(both)).chunk(2, dim=1)
        return g2l_gate, l2g_gate


def _is_plain(conv: nn.Module) -> TypeGuard[Conv2d]:
    """Whether nobody has replaced it or looks at what goes in and out of it."""
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)
    return type(conv) is Conv2d and not any(hooks)


def _as_pair(x: Tensor | Pair) -> Pair:
    return x if isinstance(x, tuple) else (x, None)


def _branch(layer: nn.Module, x: Tensor | None, *, gate: Tensor | None = None) -> Tensor | None:
    """What one branch contributes; `None` where it is absent."""
    if x is None or isinstance(layer, nn.Identity):
        return None
    y = layer(x)
    return y if gate is None else y * gate


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class FFC_BN_ACT(nn.Module):  # noqa: N801 - the official name
    """`FFC` (which lists the settings), then normalisation and activation of each half."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        *,
        norm_layer: NormLayer = BatchNorm2d,
        activation_layer: Callable[..., nn.Module] = nn.Identity,
        **ffc_kwargs: Any,
    ) -> None:
        super().__init__()
        self.ffc = FFC(in_channels, out_channels, kernel_size, ratio_gin, ratio_gout, **ffc_kwargs)
        out_cg = self.ffc.global_out_num
        out_cl = out_channels - out_cg
        # An absent half stays `None` on its way through an identity.
        self.bn_l = norm_layer(out_cl) if out_cl else nn.Identity()
        self.bn_g = norm_layer(out_cg) if out_cg else nn.Identity()
        self.act_l = activation_layer(inplace=True) if out_cl else nn.Identity()
        self.act_g = activation_layer(inplace=True) if out_cg else nn.Identity()

    def forward(self, x: Tensor | Pair) -> Pair:
        x_l, x_g = self.ffc(x)
        return self.act_l(self.bn_l(x_l)), self.act_g(self.bn_g(x_g))


class FFCResnetBlock(nn.Module):
    """Two 3x3 `FFC_BN_ACT` and a residual connection; `ffc_kwargs` are those of `FFC`.

    `x`: a pair, (B, C, H, W) each, or with `inline` one tensor with the global channels last; returns the same.
    """

    def __init__(
        self,
        dim: int,
        padding_type: str = "reflect",
        norm_layer: NormLayer = BatchNorm2d,
        activation_layer: Callable[..., nn.Module] = nn.ReLU,
        dilation: int = 1,
        *,
        inline: bool = False,
        **ffc_kwargs: Any,
    ) -> None:
        super().__init__()

        def conv() -> FFC_BN_ACT:
            return FFC_BN_ACT(
                dim,
                dim,
                kernel_size=3,
                padding=dilation,
                dilation=dilation,
                padding_type=padding_type,
                norm_layer=norm_layer,
                activation_layer=activation_layer,
                **ffc_kwargs,
            )

        self.conv1 = conv()
        self.conv2 = conv()
        self.inline = inline
        ffc = self.conv1.ffc
        self.global_in_num = ffc.global_in_num
        if ffc.global_in_num != ffc.global_out_num:
            raise InputError(
                f"FFC residual block: ratio_gin {ffc.ratio_gin} and ratio_gout {ffc.ratio_gout} differ; the "
                "block adds its input to its output, set both to the same value"
            )

    def forward(self, x: Any) -> Any:
        x_l, x_g = self._split(x) if self.inline else _as_pair(x)
        y_l, y_g = self.conv2(self.conv1((x_l, x_g)))
        out = _add(x_l, y_l), _add(x_g, y_g)
        return _concat(out) if self.inline else out

    def _split(self, x: Tensor) -> Pair:
        in_cg = self.global_in_num
        x_l, x_g = x.split((x.shape[1] - in_cg, in_cg), dim=1)
        return (x_l if x_l.shape[1] else None), (x_g if in_cg else None)


def _concat(x: Pair) -> Tensor:
    return torch.cat([half for half in x if half is not None], dim=1)


class ConcatTupleLayer(nn.Module):
    """A pair (x_l, x_g) as one tensor, local channels first."""

    def forward(self, x: Pair) -> Tensor:
        return _concat(x)


class FFCResNetGenerator(Generator):
    """Convolutional encoder, residual blocks of fast Fourier convolutions, convolutional decoder.

    `forward`: (B, input_nc, H, W) to (B, output_nc, H, W), height and width multiples of 2**n_downsampling, or of twice
    that with local Fourier units (`enable_lfu`), which halve the features once more.

    Args:
        ngf: channels at full resolution; each of the `n_downsampling` halvings doubles them, up to `max_features`.
        norm_layer, up_norm_layer: `bn`, `in` or a callable from the channel count to a layer; the latter for
            the upsampling part.
        padding_type: how the residual blocks pad.
        init_conv_kwargs, downsample_conv_kwargs, resnet_conv_kwargs: settings of `FFC` for the 7x7 stem, the
            downsampling and the residual blocks; `ratio_gin` and `ratio_gout` are mandatory. The last
            downsampling makes as many global channels as the blocks take, whatever its `ratio_gout`.
        add_out_act: `sigmoid`, `tanh` (also `True`), or `False` for none.
        out_ffc, out_ffc_kwargs: one more residual block at full resolution, and its `FFC` settings.
        initial_fill: `pyramid`: the hole is filled smoothly first, and the network learns what to add (see
            `PyramidFill`); not the paper's. A network of a few million weights gets tones from it that it
            would otherwise train hours for.
        identity_init: the encoder hands the image on whole at the start, and batch norms keep their statistics (see
            `start_as_identity`); not the paper's. Needs `initial_fill`.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        n_downsampling: int = 3,
        n_blocks: int = 9,
        *,
        norm_layer: str | NormLayer = "bn",
        up_norm_layer: str | NormLayer = "bn",
        padding_type: str = "reflect",
        init_conv_kwargs: Mapping[str, Any],
        downsample_conv_kwargs: Mapping[str, Any],
        resnet_conv_kwargs: Mapping[str, Any],
        add_out_act: bool | str | None = True,
        max_features: int = 1024,
        out_ffc: bool = False,
        out_ffc_kwargs: Mapping[str, Any] | None = None,
        initial_fill: str | None = None,
        identity_init: bool = False,
    ) -> None:
        norm = get_norm_layer(norm_layer)
        init = _ffc_settings(init_conv_kwargs, where="generator.init_conv_kwargs", known=_SETTINGS)
        down = _ffc_settings(downsample_conv_kwargs, where="generator.downsample_conv_kwargs", known=_SETTINGS)
        blocks = _ffc_settings(resnet_conv_kwargs, where="generator.resnet_conv_kwargs", known=_BLOCK_SETTINGS)
        common: dict[str, Any] = {"norm_layer": norm, "activation_layer": nn.ReLU}
        widths = channels_per_level(ngf, n_downsampling, max_features=max_features)

        layers: list[nn.Module] = [
            ReflectionPad2d(3),
            FFC_BN_ACT(input_nc, widths[0], kernel_size=7, **common, **init),
        ]
        for i in range(n_downsampling):
            is_last = i == n_downsampling - 1
            settings = {**down, "ratio_gout": blocks["ratio_gin"]} if is_last else down
            layers.append(
                FFC_BN_ACT(widths[i], widths[i + 1], kernel_size=3, stride=2, padding=1, **common, **settings)
            )
        first_block = len(layers)
        block_settings = {"padding_type": padding_type, **common, **blocks}
        check_whole("generator.n_blocks", n_blocks)
        layers += [FFCResnetBlock(widths[-1], **block_settings) for _ in range(n_blocks)]
        layers.append(ConcatTupleLayer())
        layers += upsampling(widths, norm_layer=get_norm_layer(up_norm_layer))
        if out_ffc:
            out = _ffc_settings(out_ffc_kwargs or {}, where="generator.out_ffc_kwargs", known=_BLOCK_SETTINGS)
            out_settings = {"padding_type": padding_type, **common, **out}
            layers.append(FFCResnetBlock(ngf, inline=True, **out_settings))
        layers += [ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, kernel_size=7)]
        layers += output_activation(add_out_act)
        super().__init__(
            layers,
            first_block=first_block,
            n_downsampling=n_downsampling,
            min_feature_size=blocks.get("dilation", 1) + 1,
            even_features=any(
                isinstance(part, SpectralTransform) and part.lfu for layer in layers for part in layer.modules()
            ),
            initial_fill=get_initial_fill(initial_fill),
        )
        if identity_init:
            if initial_fill is None or init["ratio_gout"] or down["ratio_gin"] or out_ffc:
                raise InputError(
                    "generator.identity_init: works with initial_fill, without out_ffc, and with ratios of 0 in front "
                    "of the residual blocks"
                )
            start_as_identity(self.model, first_block=first_block, widths=widths, colours=output_nc)


# What a config can set of an `FFC`; the generator decides the rest.
_SETTINGS = set(inspect.signature(FFC).parameters) - {
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
}
_BLOCK_SETTINGS = _SETTINGS | {"dilation"}


def _ffc_settings(settings: Mapping[str, Any], *, where: str, known: Collection[str]) -> dict[str, Any]:
    """`settings` as a new dict; an unknown name or a missing ratio is an `InputError`."""
    check_known_keys(settings, known, where=where)
    for name in ("ratio_gin", "ratio_gout"):
        if name not in settings:
            raise InputError(f"{where}.{name}: missing config key; it has no default, set it in the config")
    return dict(settings)
