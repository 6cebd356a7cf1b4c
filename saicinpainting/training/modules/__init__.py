"""The official path of the networks."""

from __future__ import annotations

from saicinpainting.networks import make_discriminator, make_generator

__all__ = ["make_discriminator", "make_generator"]
