"""The official path of the networks."""

from saicinpainting.networks import make_discriminator, make_generator
