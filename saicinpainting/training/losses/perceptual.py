"""Perceptual losses: distances between the feature maps of fixed networks.

The classes take a network and know no files; `make_resnet_pl` and `make_perceptual_loss` read, and where
needed download, its weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.download import is_address
from saicinpainting.evaluation.resnet_encoder import (
    ImageNetNormalization,
    ResNetEncoder,
    encoder_weights,
    fold_batch_norms,
    load_encoder,
    load_weights,
)
from saicinpainting.training.modules.base import at_least_float32
from saicinpainting.training.modules.vgg import VGG19_URL, VGG19Features
from saicinpainting.utils import set_requires_grad
from saicinpainting.weights import fetch_weights, torch_home, weights_file

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
        self.train(self.training)

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
        """weight · sum over the maps of their mean squared difference; pred, target: (B, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            target_maps = self.impl(self.normalize(target))
        pred_maps = self.impl(self.normalize(pred))
        distances = [F.mse_loss(p, t) for p, t in zip(pred_maps, target_maps, strict=True)]
        return self.weight * torch.stack(distances).sum()


class PerceptualLoss(nn.Module):
    """Squared differences of VGG features (Johnson et al. 2016, eq. 2), at every ReLU of `vgg`.

    vgg: normalised images (B, 3, H, W) -> feature maps.
    """

    def __init__(self, vgg: nn.Module) -> None:
        super().__init__()
        self.vgg = vgg
        self.normalize = ImageNetNormalization()
        set_requires_grad(vgg, False)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,): per picture, the sum over the maps of their mean squared difference.

        pred, target: (B, 3, H, W) in [0, 1]. With mask: (B, 1, H, W), 1 = hole, only what lies outside counts.
        """
        with torch.no_grad():
            target_maps = self.vgg(self.normalize(target))
        pred_maps = self.vgg(self.normalize(pred))
        return torch.stack([_distance_per_item(p, t, mask) for p, t in zip(pred_maps, target_maps, strict=True)]).sum(
            dim=0
        )


def _distance_per_item(pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    distance = (at_least_float32(pred) - at_least_float32(target)).square()
    if mask is not None:
        mask = F.interpolate(mask, size=pred.shape[-2:], mode="bilinear", align_corners=False)
        distance = distance * (1 - mask)
    return distance.mean(dim=(1, 2, 3))


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
    path = weights_file(
        place if is_address(str(place)) else Path(place) / name, url, what="weights of losses.resnet_pl"
    )
    encoder = load_weights(ResNetEncoder(arch_encoder), path, load_encoder)
    return ResNetPL(encoder, weight=weight)


def make_perceptual_loss(*, weights_path: str | Path | None = None) -> PerceptualLoss:
    """`PerceptualLoss` with torchvision's ImageNet weights of VGG19.

    weights_path: the file, or its folder (None: where PyTorch keeps its own); downloaded if missing.
    """
    path = torch_home() / "hub" / "checkpoints" if weights_path is None else Path(weights_path)
    if path.is_dir() or not path.suffix:
        path = path / VGG19_FILE
    path = fetch_weights(path, VGG19_URL, what="weights of losses.perceptual")
    return PerceptualLoss(load_weights(VGG19Features(), path, VGG19Features.load_torchvision))
