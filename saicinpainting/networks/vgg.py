"""VGG19 features with average pooling, for the perceptual loss (Simonyan and Zisserman 2015, configuration E)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from saicinpainting.io.state_dict import load_exactly

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Convolutions of the five scales; the perceptual loss stops after the first of the last scale.
_WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,))


class VGG19Features(nn.Sequential):
    """The first 30 layers of torchvision's `vgg19.features`, with average in place of max pooling.

    `forward`: ImageNet-normalised images (B, 3, H, W), at least 16 pixels a side, to the 13 maps after each ReLU.
    The layers keep torchvision's numbers, so the state-dict names are `0.weight`, `0.bias`, `2.weight`, ...
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        c_in = 3
        for scale, widths in enumerate(_WIDTHS):
            if scale:
                layers.append(nn.AvgPool2d(kernel_size=2, stride=2))
            for c_out in widths:
                layers += [nn.Conv2d(c_in, c_out, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                c_in = c_out
        super().__init__(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        maps = []
        for layer in self:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    def load_torchvision(self, state: Mapping[str, Tensor], *, path: str | Path = VGG19_URL) -> None:
        """Take the weights from the state dict of torchvision's `vgg19`; the layers after the 30th are left out.

        path: the file it comes from, for errors.
        """
        names = self.state_dict().keys()
        own = {name: state[f"features.{name}"] for name in names if f"features.{name}" in state}
        load_exactly(self, own, path=path, what="weights of VGG19")
