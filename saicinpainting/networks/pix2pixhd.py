"""Networks after pix2pixHD (Wang et al., CVPR 2018): two convolutional generators and the patch discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial, partialmethod
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from saicinpainting.networks.base import (
    PADDING_MODES,
    Generator,
    NormLayer,
    PaddingMode,
    channels_per_level,
    choose,
    get_norm_layer,
    output_activation,
    upsampling,
)
from saicinpainting.networks.batch_norm import count_batch, leave_counting_to
from saicinpainting.networks.casting import casts_weights, weights_in_autocast_dtype
from saicinpainting.networks.conv_double_backward import DoubleBackwardConv2d
from saicinpainting.networks.multidilated import MultidilatedConv
from saicinpainting.networks.padding import ReflectionPad2d
from saicinpainting.utils import call_with_settings, check_whole


class DepthwiseSeparableConv(nn.Module):
    """A convolution of each channel by itself, then a 1x1 convolution over the channels."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_dim, in_dim, kernel_size, stride=stride, padding=padding, groups=in_dim)
        self.pointwise = nn.Conv2d(in_dim, out_dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


ConvLayer = Callable[..., nn.Module]
CONV_KINDS: dict[str, ConvLayer] = {"default": nn.Conv2d, "depthwise": DepthwiseSeparableConv}
_PAD_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "reflect": ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
}


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions and a residual connection. `x`: (B, dim, H, W), the result likewise."""

    def __init__(self, dim: int, *, padding_mode: PaddingMode, norm_layer: NormLayer, conv_layer: ConvLayer) -> None:
        super().__init__()
        # Zeros are padded by the convolution itself, which decides the numbers in the state-dict names.
        pad = [] if padding_mode == "zeros" else [_PAD_LAYERS[padding_mode](1)]
        padding = 0 if pad else 1
        self.conv_block = nn.Sequential(
            *pad,
            conv_layer(dim, dim, kernel_size=3, padding=padding),
            norm_layer(dim),
            nn.ReLU(inplace=True),
            *pad,
            conv_layer(dim, dim, kernel_size=3, padding=padding),
            norm_layer(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class MultidilatedResnetBlock(nn.Module):
    """Two convolutions made by `conv_layer(dim, dim)` and a residual connection; shapes as in `ResnetBlock`."""

    def __init__(self, dim: int, *, norm_layer: NormLayer, conv_layer: ConvLayer) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            conv_layer(dim, dim),
            norm_layer(dim),
            nn.ReLU(inplace=True),
            conv_layer(dim, dim),
            norm_layer(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _multidilated(c_in: int, c_out: int, *, padding_mode: PaddingMode, settings: Mapping[str, Any]) -> MultidilatedConv:
    make = partial(MultidilatedConv, c_in, c_out, padding_mode=padding_mode)
    return call_with_settings(make, settings, where="generator.multidilation_kwargs")


def _downsampling(input_nc: int, widths: list[int], *, conv_layer: ConvLayer, norm_layer: NormLayer) -> list[nn.Module]:
    """The 7x7 stem and the stride-2 convolutions, up to the first residual block."""
    layers: list[nn.Module] = [
        ReflectionPad2d(3),
        conv_layer(input_nc, widths[0], kernel_size=7),
        norm_layer(widths[0]),
        nn.ReLU(inplace=True),
    ]
    for c_in, c_out in pairwise(widths):
        layers += [
            conv_layer(c_in, c_out, kernel_size=3, stride=2, padding=1),
            norm_layer(c_out),
            nn.ReLU(inplace=True),
        ]
    return layers


def _head(widths: list[int], output_nc: int, add_out_act: bool | str | None) -> list[nn.Module]:
    """The 7x7 convolution to the image and the output activation."""
    conv = nn.Conv2d(widths[0], output_nc, kernel_size=7)
    return [ReflectionPad2d(3), conv, *output_activation(add_out_act)]


class GlobalGenerator(Generator):
    """Convolutional encoder, residual blocks, convolutional decoder: `pix2pixhd_global`.

    `forward`: (B, input_nc, H, W) to (B, output_nc, H, W), height and width multiples of 2**n_downsampling.

    Args:
        ngf: channels at full resolution; each of the `n_downsampling` halvings doubles them, up to `max_features`.
        norm_layer, up_norm_layer: `bn`, `in` or a callable from the channel count to a layer; the latter for
            the upsampling part.
        padding_type: how the residual blocks pad, `reflect`, `replicate` or `zero`.
        conv_kind: the convolutions before the upsampling part, `default` or `depthwise` (separable).
        add_out_act: `sigmoid`, `tanh` (also `True`), or `False` for none.
        multidilation_kwargs: `comb_mode`, `dilation_num` and `min_dilation` of the `MultidilatedConv` that takes the
            place of every convolution in the residual blocks. Reflection needs a feature map larger than the largest
            dilation.
    """

    multidilated = False

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
        conv_kind: str = "default",
        add_out_act: bool | str | None = True,
        max_features: int = 1024,
        multidilation_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        norm = get_norm_layer(norm_layer)
        conv = choose(CONV_KINDS, conv_kind, where="generator.conv_kind")
        padding_mode = choose(PADDING_MODES, padding_type, where="generator.padding_type")
        widths = channels_per_level(ngf, n_downsampling, max_features=max_features)
        down = _downsampling(input_nc, widths, conv_layer=conv, norm_layer=norm)
        plain = multidilation_kwargs is None and not self.multidilated
        dilated = partial(_multidilated, padding_mode=padding_mode, settings=multidilation_kwargs or {})
        make_block: Callable[..., nn.Module] = (
            partial(ResnetBlock, padding_mode=padding_mode, conv_layer=conv)
            if plain
            else partial(MultidilatedResnetBlock, conv_layer=dilated)
        )
        check_whole("generator.n_blocks", n_blocks)
        blocks = [make_block(widths[-1], norm_layer=norm) for _ in range(n_blocks)]
        up = upsampling(widths, norm_layer=get_norm_layer(up_norm_layer))
        reach = 1 if plain else max(dilated(widths[-1], widths[-1]).dilations)
        super().__init__(
            [*down, *blocks, *up, *_head(widths, output_nc, add_out_act)],
            first_block=len(down),
            n_downsampling=n_downsampling,
            min_feature_size=reach + 1 if padding_mode == "reflect" else 1,
        )


class MultiDilatedGlobalGenerator(GlobalGenerator):
    """`GlobalGenerator` with a `MultidilatedConv` for every convolution in the blocks: `pix2pixhd_multidilated`."""

    multidilated = True
    __init__ = partialmethod(GlobalGenerator.__init__, n_blocks=3)


class NLayerDiscriminator(nn.Module):
    """Patch discriminator of 4x4 convolutions, the first `n_layers` of them with stride 2.

    `forward`: (B, input_nc, H, W) to the score map (B, 1, h, w) and the list of `n_layers` + 1 feature maps
    before it, which the feature-matching loss compares.
    """

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm_layer: str | NormLayer = "bn") -> None:
        super().__init__()
        norm = get_norm_layer(norm_layer)
        widths = [ndf, *(min(512, ndf * 2**i) for i in range(1, n_layers + 1))]
        stages: list[list[nn.Module]] = [[_conv4(input_nc, ndf, stride=2), _leaky_relu()]]
        for i, (c_in, c_out) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < n_layers else 1
            stages.append([_conv4(c_in, c_out, stride=stride), norm(c_out), _leaky_relu()])
        stages.append([_conv4(widths[-1], 1, stride=1)])
        self.n_stages = len(stages)
        for i, stage in enumerate(stages):
            self.add_module(f"model{i}", nn.Sequential(*stage))
        leave_counting_to(self)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        with weights_in_autocast_dtype(self, x.device) if casts_weights(x.device) else nullcontext():
            for i in range(self.n_stages):
                x = self.get_submodule(f"model{i}")(x)
                maps.append(x)
        count_batch(self)
        return maps[-1], maps[:-1]


_conv4 = partial(DoubleBackwardConv2d, kernel_size=4, padding=2)
_leaky_relu = partial(nn.LeakyReLU, 0.2, inplace=True)
