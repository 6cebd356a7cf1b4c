"""Networks by the kinds that configs name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from saicinpainting.networks.base import Generator
from saicinpainting.networks.ffc import FFCResNetGenerator
from saicinpainting.networks.pix2pixhd import (
    GlobalGenerator,
    MultiDilatedGlobalGenerator,
    NLayerDiscriminator,
)
from saicinpainting.utils import build

GENERATORS: dict[str, Callable[..., Generator]] = {
    "ffc_resnet": FFCResNetGenerator,
    "pix2pixhd_global": GlobalGenerator,
    "pix2pixhd_multidilated": MultiDilatedGlobalGenerator,
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {"pix2pixhd_nlayer": NLayerDiscriminator}


def make_generator(config: Any = None, *, kind: str, **kwargs: Any) -> Generator:
    """The generator that the config section `generator` describes.

    `config`, the whole config, decides nothing; it is the first argument because scripts written for the
    official code call `make_generator(config, **config.generator)`.
    """
    return build(GENERATORS, {"kind": kind, **kwargs}, where="generator")


def make_discriminator(*, kind: str, **kwargs: Any) -> nn.Module:
    """The discriminator that the config section `discriminator` describes."""
    return build(DISCRIMINATORS, {"kind": kind, **kwargs}, where="discriminator")
