"""The convolutional generators and the discriminator; the tables of kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saicinpainting.networks import DISCRIMINATORS, GENERATORS, make_discriminator, make_generator
from saicinpainting.networks.multidilated import MultidilatedConv
from saicinpainting.networks.pix2pixhd import DepthwiseSeparableConv, NLayerDiscriminator, ResnetBlock
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, rand


def settings(case: str, **changes: Any) -> dict[str, Any]:
    return {**golden_values()[case], **changes}


def dilated(x: torch.Tensor, conv: torch.nn.Conv2d, dilation: int) -> torch.Tensor:
    """One 3x3 convolution, zero padding, written out."""
    return F.conv2d(x, conv.weight, conv.bias, padding=dilation, dilation=dilation)


def test_kinds() -> None:
    assert set(GENERATORS) == {"ffc_resnet", "pix2pixhd_global", "pix2pixhd_multidilated"}
    assert set(DISCRIMINATORS) == {"pix2pixhd_nlayer"}
    for case in ("ffc", "global", "multidilated"):
        assert type(make_generator(**settings(case))) is GENERATORS[settings(case)["kind"]]


def test_make_generator_takes_the_config_first() -> None:
    with_config = make_generator({"anything": 1}, **settings("global"))
    assert with_config.state_dict().keys() == make_generator(**settings("global")).state_dict().keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_generator(kind="unet"), r"generator\.kind: unknown kind 'unet'; known: ffc_resnet, "),
        (lambda: make_discriminator(kind="unet"), r"discriminator\.kind: unknown kind 'unet'"),
        (lambda: make_generator(kind="pix2pixhd_global", input_nc=4), r"generator\.output_nc: missing"),
        (
            lambda: make_discriminator(kind="pix2pixhd_nlayer", input_nc=3, n_layer=4),
            r"discriminator\.n_layer: .*did you mean 'n_layers'",
        ),
        (
            lambda: make_generator(**settings("global", conv_kind="gated")),
            r"generator\.conv_kind: unknown value 'gated'; known: default, depthwise",
        ),
        (
            lambda: make_generator(**settings("global", padding_type="mirror")),
            r"generator\.padding_type: unknown value 'mirror'; known: reflect, replicate, zero, zeros",
        ),
        (lambda: make_generator(**settings("global", n_blocks=-1)), r"generator\.n_blocks: expected .* got -1"),
        (
            lambda: make_generator(**settings("multidilated", multidilation_kwargs={"combmode": "sum"})),
            r"generator\.multidilation_kwargs\.combmode: .*did you mean 'comb_mode'",
        ),
        (
            lambda: make_generator(**settings("multidilated", multidilation_kwargs={"comb_mode": "mean"})),
            r"comb_mode: unknown value 'mean'; known: cat_both, cat_in, cat_out, sum",
        ),
    ],
)
def test_wrong_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "zeros"])
def test_resnet_block(padding_mode: Any) -> None:
    block = ResnetBlock(4, padding_mode=padding_mode, norm_layer=torch.nn.BatchNorm2d, conv_layer=torch.nn.Conv2d)
    fill(block).eval()
    numbers = {int(name.split(".")[1]) for name in block.state_dict()}
    assert numbers == ({0, 1, 3, 4} if padding_mode == "zeros" else {1, 2, 5, 6})
    first, norm1, second, norm2 = (block.conv_block[i] for i in sorted(numbers))

    def conv(x: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="constant" if padding_mode == "zeros" else padding_mode)
        return F.conv2d(padded, layer.weight, layer.bias)

    x = rand(0, 2, 4, 6, 6)
    want = x + norm2(conv(F.relu(norm1(conv(x, first))), second))
    torch.testing.assert_close(block(x), want, rtol=0, atol=1e-5)


def test_depthwise_separable_is_a_low_rank_convolution() -> None:
    conv = fill(DepthwiseSeparableConv(4, 6, 3, stride=2, padding=1))
    kernel = conv.pointwise.weight * conv.depthwise.weight[:, 0][None]
    bias = conv.pointwise.weight[:, :, 0, 0] @ conv.depthwise.bias + conv.pointwise.bias
    x = rand(0, 2, 4, 8, 8)
    torch.testing.assert_close(conv(x), F.conv2d(x, kernel, bias, stride=2, padding=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["global", "multidilated"])
@pytest.mark.parametrize("changes", [{"conv_kind": "depthwise"}, {"norm_layer": "in"}, {"padding_type": "zero"}])
def test_variants_keep_the_size(case: str, changes: dict[str, Any]) -> None:
    generator = make_generator(**settings(case, **changes))
    assert generator(rand(0, 1, 4, 80, 72)).shape == (1, 3, 80, 72)


@pytest.mark.parametrize("kind", ["pix2pixhd_global", "pix2pixhd_multidilated"])
def test_max_features_bounds_the_width(kind: str) -> None:
    generator = make_generator(kind=kind, input_nc=4, output_nc=3, ngf=8, n_downsampling=2, n_blocks=1, max_features=12)
    convs = [m for m in generator.model if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    widths = [(m.in_channels, m.out_channels) for m in convs]
    assert widths == [(4, 8), (8, 12), (12, 12), (12, 12), (12, 8), (8, 3)]


def test_multidilated_sum() -> None:
    conv = fill(MultidilatedConv(4, 6, comb_mode="sum", dilation_num=3))
    x = rand(0, 1, 4, 12, 12)
    want = sum(dilated(x, c, d) for c, d in zip(conv.convs, (1, 2, 4), strict=True))
    torch.testing.assert_close(conv(x), want, rtol=0, atol=1e-5)


def test_multidilated_cat_in() -> None:
    conv = fill(MultidilatedConv(4, 6, comb_mode="cat_in", dilation_num=2, min_dilation=2))
    x = rand(0, 1, 4, 12, 12)
    want = dilated(x[:, :2], conv.convs[0], 2) + dilated(x[:, 2:], conv.convs[1], 4)
    torch.testing.assert_close(conv(x), want, rtol=0, atol=1e-5)


def test_multidilated_cat_out_interleaves() -> None:
    conv = fill(MultidilatedConv(4, 6, comb_mode="cat_out", dilation_num=2))
    x = rand(0, 1, 4, 12, 12)
    got = conv(x)
    torch.testing.assert_close(got[:, 0::2], dilated(x, conv.convs[0], 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(got[:, 1::2], dilated(x, conv.convs[1], 2), rtol=0, atol=1e-5)


def test_multidilated_cat_both() -> None:
    conv = fill(MultidilatedConv(4, 6, comb_mode="cat_both", dilation_num=2))
    x = rand(0, 1, 4, 12, 12)
    got = conv(x)
    torch.testing.assert_close(got[:, 0::2], dilated(x[:, :2], conv.convs[0], 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(got[:, 1::2], dilated(x[:, 2:], conv.convs[1], 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("mode", "c_in", "c_out"), [("cat_in", 5, 6), ("cat_out", 6, 5), ("cat_both", 4, 5)])
def test_multidilated_needs_equal_parts(mode: str, c_in: int, c_out: int) -> None:
    with pytest.raises(InputError, match="5 channels do not divide into 2 equal parts"):
        MultidilatedConv(c_in, c_out, comb_mode=mode, dilation_num=2)


def test_multidilated_needs_room_for_its_largest_dilation() -> None:
    generator = make_generator(**settings("multidilated"))
    with pytest.raises(InputError, match="at least 72, got 64x80"):
        generator(rand(0, 1, 4, 64, 80))
    assert generator.eval()(rand(0, 1, 4, 72, 72)).shape == (1, 3, 72, 72)


def test_discriminator_widths_stop_at_512() -> None:
    with torch.device("meta"):
        discriminator = NLayerDiscriminator(3, ndf=256, n_layers=3)
    shapes = [tuple(t.shape) for name, t in discriminator.state_dict().items() if name.endswith(".0.weight")]
    assert shapes == [(256, 3, 4, 4), (512, 256, 4, 4), (512, 512, 4, 4), (512, 512, 4, 4), (1, 512, 4, 4)]


def test_discriminator_is_twice_differentiable() -> None:
    # The R1 penalty needs the gradient of the gradient with respect to the image to reach the weights.
    discriminator = fill(make_discriminator(**settings("discriminator"))).train()
    image = rand(0, 2, 3, 32, 32).requires_grad_(True)
    score, _ = discriminator(image)
    (gradient,) = torch.autograd.grad(score.sum(), image, create_graph=True)
    gradient.square().sum().backward()
    first = discriminator.get_parameter("model0.0.weight").grad
    assert first is not None
    assert first.abs().sum() > 0


@pytest.mark.parametrize("kind", ["ffc_resnet", "pix2pixhd_global", "pix2pixhd_multidilated"])
def test_official_settings_that_change_nothing_may_stand_in_a_config(kind: str) -> None:
    none = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
    convs = {f"{part}_conv_kwargs": none for part in ("init", "downsample", "resnet")} if kind == "ffc_resnet" else {}
    small = {"kind": kind, "input_nc": 4, "output_nc": 3, "ngf": 4, "n_downsampling": 1, "n_blocks": 1, **convs}
    official = {"spatial_transform_layers": None, "spatial_transform_kwargs": {}, "ffc_positions": None, "dilation": 1}
    assert make_generator(None, **small, **official).state_dict().keys() == make_generator(**small).state_dict().keys()
    with pytest.raises(InputError, match=r"generator\.spatial_transform_layers: unknown config key"):
        make_generator(None, **small, spatial_transform_layers=[0])
