"""The official path of what networks share."""

from __future__ import annotations

from torch import Tensor, nn

from saicinpainting.networks.base import get_norm_layer, output_activation

__all__ = ["BaseDiscriminator", "get_activation", "get_norm_layer"]


class BaseDiscriminator(nn.Module):
    """What a discriminator of one's own derives from."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 3, H, W) -> scores (B, 1, h, w) and the maps that feature matching compares."""
        raise NotImplementedError


def get_activation(kind: bool | str = "tanh") -> nn.Module:
    """`tanh` or `sigmoid`; for False a layer that changes nothing."""
    layers = output_activation(kind)
    return layers[0] if layers else nn.Identity()
