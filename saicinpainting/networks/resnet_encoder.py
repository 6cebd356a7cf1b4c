"""ResNet-50 encoder of the high receptive field perceptual loss (Suvorov et al., WACV 2022, section 2.2.1).

The network of the MIT scene parsing benchmark (Zhou et al., CVPR 2017), so that its published weights load: a
stem of three 3x3 convolutions, and in the dilated variant an output stride of 8 instead of 32.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from saicinpainting.io.state_dict import load_exactly, read_state_dict
from saicinpainting.networks.base import choose

_WEIGHTS_URL = "http://sceneparsing.csail.mit.edu/model"
# Dilation of the four stages; a stage with dilation above 1 keeps its resolution instead of halving it.
_STAGE_DILATIONS = {"resnet50": (1, 1, 1, 1), "resnet50dilated": (1, 1, 2, 4)}

# What the published encoder files hold beyond the encoder: ImageNet's classifier, and the scratch numbers of
# the batch normalisation that the ADE20K encoder was trained with.
EXTRA_KEYS = ("fc.weight", "fc.bias")
EXTRA_SUFFIXES = ("._tmp_running_mean", "._tmp_running_var", "._running_iter")


def encoder_weights(arch: str, segmentation: bool) -> tuple[str, str]:
    """Weights file of `arch`, relative to the folder of weights, and the address to download it from.

    With `segmentation` the encoder trained on ADE20K, otherwise the one trained on ImageNet, whose file also
    holds `fc.*`, which `ResNetEncoder` has not.
    """
    choose(_STAGE_DILATIONS, arch, where="arch_encoder")
    if segmentation:
        path = f"ade20k-{arch}-ppm_deepsup/encoder_epoch_20.pth"
        return f"ade20k/{path}", f"{_WEIGHTS_URL}/pytorch/{path}"
    return "resnet50-imagenet.pth", f"{_WEIGHTS_URL}/pretrained_resnet/resnet50-imagenet.pth"


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a residual connection (He et al., CVPR 2016, figure 5).

    `x`: (B, in_channels, H, W) to (B, 4 * width, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetEncoder(nn.Module):
    """`forward`: ImageNet-normalised images (B, 3, H, W) to the maps after the four stages.

    They have 256, 512, 1024 and 2048 channels; `resnet50` has strides 4, 8, 16, 32, `resnet50dilated` 4, 8, 8, 8.
    """

    def __init__(self, arch: str = "resnet50dilated") -> None:
        super().__init__()
        dilations = choose(_STAGE_DILATIONS, arch, where="arch_encoder")
        self.conv1, self.bn1 = _conv3x3(3, 64, stride=2), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = _conv3x3(64, 64), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = _conv3x3(64, 128), nn.BatchNorm2d(128)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(128, 64, blocks=3, stride=1, dilation=dilations[0])
        self.layer2 = _stage(256, 128, blocks=4, stride=2, dilation=dilations[1])
        self.layer3 = _stage(512, 256, blocks=6, stride=2, dilation=dilations[2])
        self.layer4 = _stage(1024, 512, blocks=3, stride=2, dilation=dilations[3])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(x)))
        x = self.maxpool(x)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _conv3x3(c_in: int, c_out: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _stage(c_in: int, width: int, *, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    # Where dilation replaces the stride, the first block, which would have had it, dilates half as much.
    first = Bottleneck(c_in, width, dilation=dilation // 2) if dilation > 1 else Bottleneck(c_in, width, stride=stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, dilation=dilation) for _ in range(1, blocks)))


IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]


class ImageNetNormalization(nn.Module):
    """(B, 3, H, W) in [0, 1] -> the range that networks trained on ImageNet expect."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", IMAGENET_MEAN[0].clone(), persistent=False)
        self.register_buffer("std", IMAGENET_STD[0].clone(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean.to(image)) / self.std.to(image)


def load_published(network: nn.Module, path: Path, *, without: str | None = None) -> None:
    """Load a file of the MIT scene parsing benchmark, past what it holds besides.

    Args:
        network: the encoder, or a decoder of the benchmark.
        path: the file.
        without: leave out weights with this in their names.

    Raises:
        InputError: the file is damaged, or of another network.
    """
    what = f"weights of {type(network).__name__}"
    state = {
        name: tensor
        for name, tensor in read_state_dict(path, what=what).items()
        if name not in EXTRA_KEYS and not name.endswith(EXTRA_SUFFIXES) and not (without and without in name)
    }
    load_exactly(network, state, path=path, what=what)
