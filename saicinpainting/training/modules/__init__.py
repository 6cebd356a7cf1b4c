"""The official path of the networks."""

from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.networks.ffc import FFCResNetGenerator
from saicinpainting.networks.pix2pixhd import GlobalGenerator, MultiDilatedGlobalGenerator, NLayerDiscriminator
