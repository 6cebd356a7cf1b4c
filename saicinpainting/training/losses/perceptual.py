"""The official path of perceptual losses."""

from __future__ import annotations

from saicinpainting.losses.perceptual import PerceptualLoss, ResNetPL
from saicinpainting.networks.resnet_encoder import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PerceptualLoss", "ResNetPL"]
