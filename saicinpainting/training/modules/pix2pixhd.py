"""The official path of pix2pixHD's networks."""

from __future__ import annotations

from saicinpainting.networks.pix2pixhd import (
    GlobalGenerator,
    MultiDilatedGlobalGenerator,
    MultidilatedResnetBlock,
    NLayerDiscriminator,
    ResnetBlock,
)

__all__ = [
    "GlobalGenerator",
    "MultiDilatedGlobalGenerator",
    "MultidilatedResnetBlock",
    "NLayerDiscriminator",
    "ResnetBlock",
]
