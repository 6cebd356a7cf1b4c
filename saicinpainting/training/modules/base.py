"""The official path of what networks share."""

from __future__ import annotations

from torch import nn

from saicinpainting.networks.base import get_norm_layer, output_activation


def get_activation(kind: bool | str = "tanh") -> nn.Module | bool:
    """`tanh` or `sigmoid`; False for False."""
    layers = output_activation(kind)
    return layers[0] if layers else False
