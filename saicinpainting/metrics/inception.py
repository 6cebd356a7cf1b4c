"""Inception-v3 as FID uses it (the TensorFlow network that pytorch-fid ported)."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.io.state_dict import load_exactly, read_state_dict

INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
WHAT = "Inception weights of FID"
FEATURES = 2048


class FIDInception(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, 2048): activations of the last average pooling."""

    def __init__(self, weights_path: Path) -> None:
        super().__init__()
        self.inception = _make_inception()
        load_exactly(self.inception, read_state_dict(weights_path, what=WHAT), path=weights_path, what=WHAT)
        self.inception.fc = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        image = F.interpolate(image, size=(299, 299), mode="bilinear", align_corners=False)
        return self.inception(2 * image - 1)


def _make_inception() -> nn.Module:
    """Torchvision's Inception-v3 with pytorch-fid's blocks, which pool as TensorFlow does.

    pytorch-fid's own constructors download the weights themselves, so they are not used.
    """
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    network.Mixed_5b = FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = FIDInceptionE_1(1280)
    network.Mixed_7c = FIDInceptionE_2(2048)
    return network
