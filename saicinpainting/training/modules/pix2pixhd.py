"""The official path of pix2pixHD's networks."""

from saicinpainting.networks.base import get_norm_layer
from saicinpainting.networks.pix2pixhd import (
    GlobalGenerator,
    MultiDilatedGlobalGenerator,
    MultidilatedResnetBlock,
    NLayerDiscriminator,
    ResnetBlock,
)
