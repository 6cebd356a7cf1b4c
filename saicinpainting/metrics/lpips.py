"""Learned perceptual image patch similarity (Zhang et al. 2018), VGG16 with the calibrated linear weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.io.state_dict import load_exactly, read_state_dict
from saicinpainting.io.weights import weights_file
from saicinpainting.metrics.base import NetworkMetric, Row, Statistics, mean_and_std

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
WHAT = "VGG16 weights of LPIPS"
LEAST_SIDE = 16
"""Pixels that the network's four poolings leave one of."""


class LPIPSScore(NetworkMetric):
    """LPIPS distance of each image; one that is too small for the network is continued by its last rows and columns.

    `weights_path`: VGG16 of torchvision, a file or an address (None: the one where torchvision keeps it; fetched if it
    is not there).
    """

    higher_is_better = False
    packages = ("lpips", "torchvision")
    least_side = LEAST_SIDE

    def __init__(self, *, weights_path: str | Path | None = None) -> None:
        path = weights_file(weights_path, VGG16_URL, what=WHAT)
        super().__init__(make_lpips_vgg(path), rows={"values": Row()}, weights=[path])

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        height, width = inputs[0].shape[2:]
        if min(height, width) < LEAST_SIDE:
            beyond = (0, max(0, LEAST_SIDE - width), 0, max(0, LEAST_SIDE - height))
            inputs = tuple(F.pad(image, beyond, mode="replicate") for image in inputs)
        return self.network(*inputs, normalize=True).flatten()

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        return mean_and_std(rows["values"])


def make_lpips_vgg(vgg16_path: Path) -> nn.Module:
    """The network of the lpips package with a given VGG16, without downloads of its own."""
    import lpips

    # On the meta device nothing is allocated or initialised: all weights are replaced below.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision in a deprecated way
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.ScalingLayer()

    linear_path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    linear = read_state_dict(linear_path, what="linear weights of LPIPS")
    for index, layer in enumerate(network.lins):
        weight = {"model.1.weight": linear[f"lin{index}.model.1.weight"]}
        load_exactly(layer, weight, path=linear_path, what="linear weights of LPIPS")

    vgg16 = read_state_dict(vgg16_path, what=WHAT)
    # `slice2.5.weight` is torchvision's `features.5.weight`.
    names = {key: "features." + key.split(".", 1)[1] for key in network.net.state_dict()}
    own = {key: vgg16[name] for key, name in names.items() if name in vgg16}
    load_exactly(network.net, own, path=vgg16_path, what=WHAT)
    return network
