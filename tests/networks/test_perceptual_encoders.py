"""The encoders of the perceptual losses against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from saicinpainting.networks.resnet_encoder import ResNetEncoder, encoder_weights
from saicinpainting.networks.vgg import VGG19Features
from saicinpainting.utils import InputError
from tests.helpers import fill, rand


@pytest.mark.parametrize(
    ("arch", "dilate", "sizes"),
    [("resnet50", (False, False, False), (16, 8, 4, 2)), ("resnet50dilated", (False, True, True), (16, 8, 8, 8))],
)
def test_encoder_stages_equal_torchvision(arch: str, dilate: tuple[bool, ...], sizes: tuple[int, ...]) -> None:
    encoder = fill(ResNetEncoder(arch)).eval()
    with torch.device("meta"):
        reference = torchvision.models.resnet50(replace_stride_with_dilation=list(dilate))
    with torch.no_grad():
        maps = encoder(rand(0, 1, 3, 64, 64) - 0.5)
        assert [tuple(m.shape) for m in maps] == [(1, 256 * 2**i, size, size) for i, size in enumerate(sizes)]
        # The first stage differs: its input has 128 channels instead of 64.
        for i, name in enumerate(("layer2", "layer3", "layer4")):
            stage = getattr(reference, name).to_empty(device="cpu").eval()
            stage.load_state_dict(getattr(encoder, name).state_dict())
            torch.testing.assert_close(maps[i + 1], stage(maps[i]), rtol=1e-5, atol=1e-5)


def test_encoder_stem_and_first_stage() -> None:
    encoder = fill(ResNetEncoder()).eval()
    x = rand(0, 1, 3, 32, 32) - 0.5
    with torch.no_grad():
        y = x
        for i, stride in enumerate((2, 1, 1), start=1):
            conv, norm = getattr(encoder, f"conv{i}"), getattr(encoder, f"bn{i}")
            y = norm(nn.functional.conv2d(y, conv.weight, stride=stride, padding=1)).relu()
        y = nn.functional.max_pool2d(y, 3, stride=2, padding=1)
        torch.testing.assert_close(encoder(x)[0], encoder.layer1(y), rtol=1e-5, atol=1e-5)


def test_encoder_weights() -> None:
    path = "ade20k-resnet50dilated-ppm_deepsup/encoder_epoch_20.pth"
    assert encoder_weights("resnet50dilated", segmentation=True) == (
        f"ade20k/{path}",
        f"http://sceneparsing.csail.mit.edu/model/pytorch/{path}",
    )
    imagenet = (
        "resnet50-imagenet.pth",
        "http://sceneparsing.csail.mit.edu/model/pretrained_resnet/resnet50-imagenet.pth",
    )
    assert encoder_weights("resnet50", segmentation=False) == imagenet
    assert encoder_weights("resnet50dilated", segmentation=False) == imagenet
    with pytest.raises(InputError, match=r"arch_encoder: unknown value 'resnet18'; known: resnet50, "):
        encoder_weights("resnet18", segmentation=True)
    with pytest.raises(InputError, match="arch_encoder"):
        ResNetEncoder("resnet50_dilated")


def vgg19_features() -> nn.Sequential:
    """torchvision's feature stack, without the large classifier."""
    return torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])


def test_vgg_equals_torchvision_with_average_pooling() -> None:
    reference = fill(vgg19_features())
    vgg = VGG19Features()
    vgg.load_torchvision({f"features.{name}": tensor for name, tensor in reference.state_dict().items()})
    x = rand(0, 1, 3, 32, 32) - 0.5
    with torch.no_grad():
        got, want, y = vgg(x), [], x
        for layer in reference[:30]:
            y = nn.functional.avg_pool2d(y, 2) if isinstance(layer, nn.MaxPool2d) else layer(y)
            if isinstance(layer, nn.ReLU):
                want.append(y.clone())
    assert len(got) == len(want) == 13
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-5)


def test_vgg_names() -> None:
    with torch.device("meta"):
        ours, theirs = VGG19Features(), vgg19_features()
    names = [f"{i}.{part}" for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28) for part in ("weight", "bias")]
    assert list(ours.state_dict()) == names
    assert all(ours.state_dict()[n].shape == theirs.state_dict()[n].shape for n in names)


def test_vgg_refuses_other_weights() -> None:
    with pytest.raises(InputError, match=r"https://.* holds weights of another network .*it lacks 0\.weight"):
        VGG19Features().load_torchvision({"conv1.weight": torch.zeros(1)})
