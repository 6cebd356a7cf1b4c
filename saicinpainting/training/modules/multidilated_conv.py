"""The official path of convolutions of several dilations."""

from __future__ import annotations

from saicinpainting.networks.multidilated import MultidilatedConv

__all__ = ["MultidilatedConv"]
