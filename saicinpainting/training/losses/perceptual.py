"""The official path and calls of perceptual losses."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from saicinpainting.losses import perceptual
from saicinpainting.losses.perceptual import make_perceptual_loss, make_resnet_pl
from saicinpainting.networks.resnet_encoder import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PerceptualLoss", "ResNetPL"]


class ResNetPL(perceptual.ResNetPL):
    """The loss with published weights; arguments as those of `make_resnet_pl`."""

    def __init__(
        self,
        weight: float = 1,
        weights_path: str | Path | None = None,
        arch_encoder: str = "resnet50dilated",
        segmentation: bool = True,
    ) -> None:
        loss = make_resnet_pl(weights_path=weights_path, arch_encoder=arch_encoder, segmentation=segmentation)
        super().__init__(loss.impl, weight=weight)


class PerceptualLoss(perceptual.PerceptualLoss):
    """The loss with torchvision's weights of VGG19, of images in [0, 1], or normalized ones where not
    `normalize_inputs`; weights_path: see `make_perceptual_loss`."""

    def __init__(self, normalize_inputs: bool = True, weights_path: str | Path | None = None) -> None:
        super().__init__(make_perceptual_loss(weights_path=weights_path).vgg)
        if not normalize_inputs:
            self.normalize = nn.Identity()
