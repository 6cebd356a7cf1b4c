"""The official path of perceptual losses."""

from saicinpainting.losses.perceptual import PerceptualLoss, ResNetPL
from saicinpainting.networks.resnet_encoder import IMAGENET_MEAN, IMAGENET_STD
