"""Fast Fourier convolutions and their generator."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks import make_generator
from saicinpainting.networks.ffc import (
    FFC,
    FFC_BN_ACT,
    ConcatTupleLayer,
    FFCResnetBlock,
    FFCResNetGenerator,
)
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, rand


def settings(**changes: Any) -> dict[str, Any]:
    """Arguments of a small generator of the golden files."""
    return {**golden_values()["ffc"], **changes}


def resnet_conv(**changes: Any) -> dict[str, Any]:
    return {"resnet_conv_kwargs": {**settings()["resnet_conv_kwargs"], **changes}}


@pytest.mark.parametrize("padding_type", ["reflect", "replicate", "zeros"])
def test_without_global_channels_it_is_a_convolution(padding_type: str) -> None:
    ffc = fill(FFC(3, 6, 3, 0, 0, padding=1, stride=2, padding_type=padding_type))
    assert set(ffc.state_dict()) == {"convl2l.weight"}
    x = rand(0, 2, 3, 8, 10)
    out_l, out_g = ffc(x)
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if padding_type == "zeros" else padding_type)
    torch.testing.assert_close(out_l, F.conv2d(padded, ffc.convl2l.weight, stride=2), rtol=0, atol=1e-5)
    assert out_g is None


def test_with_global_channels_only_it_is_the_spectral_transform() -> None:
    ffc = fill(FFC(8, 8, 3, 1, 1, padding=1, enable_lfu=False)).eval()
    assert all(name.startswith("convg2g.") for name in ffc.state_dict())
    x = rand(0, 1, 8, 6, 6)
    out_l, out_g = ffc((None, x))
    assert out_l is None
    torch.testing.assert_close(out_g, ffc.convg2g(x), rtol=0, atol=0)


def test_the_four_branches_add_up() -> None:
    ffc = fill(FFC(8, 8, 3, 0.5, 0.75, padding=1, enable_lfu=False)).eval()
    x_l, x_g = rand(0, 1, 4, 6, 6), rand(1, 1, 4, 6, 6)
    out_l, out_g = ffc((x_l, x_g))
    assert (out_l.shape[1], out_g.shape[1]) == (2, 6)
    pads = (1, 1, 1, 1)
    both = F.pad(torch.cat((x_l, x_g), dim=1), pads, mode="reflect")
    kernel = torch.cat((ffc.convl2l.weight, ffc.convg2l.weight), dim=1)
    torch.testing.assert_close(out_l, F.conv2d(both, kernel), rtol=0, atol=1e-5)
    local = F.conv2d(F.pad(x_l, pads, mode="reflect"), ffc.convl2g.weight)
    torch.testing.assert_close(out_g, local + ffc.convg2g(x_g), rtol=0, atol=1e-5)


def test_gates_scale_what_crosses_over() -> None:
    gated = fill(FFC(8, 8, 3, 0.5, 0.5, padding=1, enable_lfu=False, gated=True)).eval()
    x_l, x_g = rand(0, 1, 4, 6, 6), rand(1, 1, 4, 6, 6)
    with torch.no_grad():
        gated.gate.weight.zero_()
        gated.gate.bias.copy_(torch.tensor([2.0, -1.0]))
    out_l, out_g = gated((x_l, x_g))
    g2l, l2g = torch.sigmoid(torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(out_l, gated.convl2l(x_l) + g2l * gated.convg2l(x_g))
    torch.testing.assert_close(out_g, l2g * gated.convl2g(x_l) + gated.convg2g(x_g))


def test_refused_layers() -> None:
    with pytest.raises(InputError, match="stride"):
        FFC(8, 8, 3, 0, 0, stride=3)
    with pytest.raises(InputError, match="gated"):
        FFC(8, 8, 3, 0, 0.5, gated=True)
    with pytest.raises(InputError, match=r"padding_type.*'mirror'"):
        FFC(8, 8, 3, 0, 0, padding_type="mirror")
    with pytest.raises(InputError, match="ratio_gin"):
        FFCResnetBlock(8, ratio_gin=0.5, ratio_gout=0.75, enable_lfu=False)
    with pytest.raises(TypeError, match="enable_flu"):
        FFC_BN_ACT(8, 8, 3, 0, 0, enable_flu=False)  # reported even where no spectral transform is made


def test_norm_and_activation_of_present_halves_only() -> None:
    layer = FFC_BN_ACT(4, 8, 3, 0, 0.25, padding=1, activation_layer=torch.nn.ReLU)
    assert (layer.bn_l.num_features, layer.bn_g.num_features) == (6, 2)
    out_l, out_g = layer(rand(0, 2, 4, 6, 6))
    assert out_l.min() == 0
    assert out_g.min() == 0
    only_local = FFC_BN_ACT(4, 8, 3, 0, 0, padding=1)
    assert isinstance(only_local.bn_g, torch.nn.Identity)
    assert only_local(rand(0, 2, 4, 6, 6))[1] is None


@pytest.mark.parametrize("ratio", [0, 0.5, 1])
def test_inline_block_is_the_block_on_halves(ratio: float) -> None:
    options = {"ratio_gin": ratio, "ratio_gout": ratio, "enable_lfu": False}
    block = fill(FFCResnetBlock(8, **options)).eval()
    inline = fill(FFCResnetBlock(8, inline=True, **options)).eval()
    x = rand(0, 2, 8, 6, 6)
    n_local = 8 - int(8 * ratio)
    halves = (x[:, :n_local] if n_local else None, x[:, n_local:] if ratio else None)
    torch.testing.assert_close(inline(x), ConcatTupleLayer()(block(halves)), rtol=0, atol=0)


def test_block_adds_its_input() -> None:
    block = fill(FFCResnetBlock(8, ratio_gin=0.5, ratio_gout=0.5, enable_lfu=False)).eval()
    x_l, x_g = rand(0, 1, 4, 6, 6), rand(1, 1, 4, 6, 6)
    y_l, y_g = block.conv2(block.conv1((x_l, x_g)))
    out_l, out_g = block((x_l, x_g))
    torch.testing.assert_close(out_l, x_l + y_l)
    torch.testing.assert_close(out_g, x_g + y_g)


def test_out_ffc_with_a_silent_block_changes_nothing() -> None:
    plain = fill(make_generator(**settings())).eval()
    out_ffc_kwargs = {"ratio_gin": 0.5, "ratio_gout": 0.5, "enable_lfu": False}
    extended = make_generator(**settings(out_ffc=True, out_ffc_kwargs=out_ffc_kwargs)).eval()
    at = next(i for i, m in enumerate(extended.model) if isinstance(m, FFCResnetBlock) and m.inline)
    layers = [m for i, m in enumerate(extended.model) if i != at]
    torch.nn.Sequential(*layers).load_state_dict(plain.model.state_dict())
    x = rand(1, 1, 4, 32, 32)
    assert not torch.allclose(extended(x), plain(x), atol=1e-3)
    for norm in (extended.model[at].conv2.bn_l, extended.model[at].conv2.bn_g):
        torch.nn.init.zeros_(norm.weight)
    torch.testing.assert_close(extended(x), plain(x), rtol=0, atol=0)


def test_max_features_bounds_the_width() -> None:
    generator = make_generator(**settings(max_features=16, **resnet_conv(ratio_gin=0.5, ratio_gout=0.5)))
    stem_and_down = [layer.ffc for layer in generator.model[1:5]]
    assert [ffc.convl2l.out_channels + ffc.global_out_num for ffc in stem_and_down] == [8, 16, 16, 16]
    up = [m for m in generator.model if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in up] == [(16, 16), (16, 16), (16, 8)]
    assert generator(rand(0, 2, 4, 32, 32)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("ratio", "shapes"), [(0, [(1, 64, 4, 4), None]), (0.5, [(1, 32, 4, 4), (1, 32, 4, 4)])])
def test_last_downsampling_splits_as_the_blocks_want(ratio: float, shapes: list[Any]) -> None:
    generator = make_generator(**settings(**resnet_conv(ratio_gin=ratio, ratio_gout=ratio)))
    features = generator.eval().encode(rand(0, 1, 4, 32, 32))
    assert [None if f is None else tuple(f.shape) for f in features] == shapes
    assert generator.decode(features).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("add_out_act", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1), (True, -1, 1), (False, None, None)]
)
def test_output_range(add_out_act: bool | str, low: float | None, high: float | None) -> None:
    generator = fill(make_generator(**settings(add_out_act=add_out_act))).eval()
    linear = fill(make_generator(**settings(add_out_act=None))).eval()
    x = rand(0, 1, 4, 32, 32) * 20
    got, raw = generator(x), linear(x)
    want = {(0, 1): torch.sigmoid(raw), (-1, 1): torch.tanh(raw)}.get((low, high), raw)
    torch.testing.assert_close(got, want)
    assert raw.abs().max() > 1


def test_normalisation_kinds() -> None:
    generator = make_generator(**settings(norm_layer="in"))
    kinds = [type(m).__name__ for m in generator.model if "Norm" in type(m).__name__]
    assert kinds == ["BatchNorm2d"] * 3  # the upsampling part has its own setting
    assert isinstance(generator.model[1].bn_l, torch.nn.InstanceNorm2d)
    both = FFCResNetGenerator(**{k: v for k, v in settings(norm_layer="in", up_norm_layer="in").items() if k != "kind"})
    kinds = [type(m).__name__ for m in both.model if "Norm" in type(m).__name__]
    assert kinds == ["InstanceNorm2d"] * 3


def test_float64_agrees_with_float32() -> None:
    generator = fill(make_generator(**settings())).eval()
    x = rand(1, 1, 4, 32, 40)
    with torch.no_grad():
        single = generator(x)
        double = generator.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["ffc", "ffc_lfu", "ffc_posenc"])
def test_training_step_under_autocast_is_finite(case: str) -> None:
    generator = fill(make_generator(**golden_values()[case])).train()
    x = rand(1, 2, 4, 48, 48)  # bottleneck 6x6, no power of two
    want = generator(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = generator(x)
    got.float().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in generator.parameters())
    assert (got.float() - want).abs().mean() < 0.02


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.slow
def test_traced_generator_takes_other_values() -> None:
    generator = fill(make_generator(**settings())).eval()
    with torch.no_grad():
        traced = torch.jit.trace(generator, rand(0, 1, 4, 32, 32))
        x = rand(1, 1, 4, 32, 32)
        torch.testing.assert_close(traced(x), generator(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(36, 32), (32, 33), (8, 64)])
def test_unusable_sizes(size: tuple[int, int]) -> None:
    generator = make_generator(**settings())
    message = rf"multiples of 8 and at least 16, got {size[0]}x{size[1]}"
    for call in (generator, generator.encode):
        with pytest.raises(InputError, match=message):
            call(rand(0, 1, 4, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_block": 3}, r"generator\.n_block: unknown config key; .*did you mean 'n_blocks'"),
        (resnet_conv(foo=1), r"generator\.resnet_conv_kwargs\.foo: unknown config key"),
        (resnet_conv(kernel_size=5), r"generator\.resnet_conv_kwargs\.kernel_size"),
        ({"init_conv_kwargs": {"ratio_gin": 0}}, r"generator\.init_conv_kwargs\.ratio_gout: missing"),
        (
            {"downsample_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0, "enable_flu": 1}},
            r"generator\.downsample_conv_kwargs\.enable_flu: .*did you mean 'enable_lfu'",
        ),
        ({"out_ffc": True}, r"generator\.out_ffc_kwargs\.ratio_gin: missing"),
        ({"n_blocks": -1}, r"generator\.n_blocks: expected a whole number of at least 0, got -1"),
        ({"add_out_act": "relu"}, r"generator\.add_out_act: unknown value 'relu'; known: sigmoid, tanh"),
        ({"norm_layer": "layer"}, r"generator\.norm_layer: unknown value 'layer'; known: bn, in"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_generator(**settings(**changes))


class Convolutions(TorchDispatchMode):
    """How many there are, and how many times something is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = self.paddings = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.convolutions += function == torch.ops.aten.convolution.default
        self.paddings += function == torch.ops.aten.reflection_pad2d.default
        return function(*args, **(kwargs or {}))


def separate(layer: FFC) -> FFC:
    """A copy whose local convolutions are watched, and so left apart."""
    copied = copy.deepcopy(layer)
    for conv in (copied.convl2l, copied.convl2g):
        conv.register_forward_hook(lambda *_: None)
    return copied


@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"stride": 2}, {"dilation": 2, "padding": 2}])
def test_the_local_convolutions_are_one_and_give_the_same_numbers_and_gradients(settings):
    torch.manual_seed(0)
    layer = FFC(16, 16, 3, 0.5, 0.5, **{"padding": 1, "enable_lfu": False, **settings}).double()
    apart = separate(layer)
    with Convolutions() as counted:
        ours = layer((rand(0, 2, 8, 12, 12).double(), rand(1, 2, 8, 12, 12).double()))
    with Convolutions() as more:
        theirs = apart((rand(0, 2, 8, 12, 12).double(), rand(1, 2, 8, 12, 12).double()))
    assert (more.convolutions - counted.convolutions, more.paddings - counted.paddings) == (1, 1)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)
        a.square().sum().backward(retain_graph=True)
        b.square().sum().backward(retain_graph=True)
    for a, b in zip(layer.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-13, atol=1e-13)
