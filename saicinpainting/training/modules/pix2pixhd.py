"""The official path of pix2pixHD's networks."""

from saicinpainting.networks.pix2pixhd import (
    GlobalGenerator,
    MultiDilatedGlobalGenerator,
    MultidilatedResnetBlock,
    NLayerDiscriminator,
    ResnetBlock,
)
