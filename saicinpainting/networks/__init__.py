"""Networks by the kinds that configs name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from saicinpainting.networks.base import Generator
from saicinpainting.networks.ffc import FFCResNetGenerator
from saicinpainting.networks.pix2pixhd import (
    GlobalGenerator,
    MultiDilatedGlobalGenerator,
    NLayerDiscriminator,
)
from saicinpainting.utils import build, check_interface

GENERATORS: dict[str, type[Generator]] = {
    "ffc_resnet": FFCResNetGenerator,
    "pix2pixhd_global": GlobalGenerator,
    "pix2pixhd_multidilated": MultiDilatedGlobalGenerator,
}
OFFICIAL_DEFAULTS: dict[str, Any] = {
    "spatial_transform_layers": None,
    "spatial_transform_kwargs": {},
    "ffc_positions": None,
    "ffc_kwargs": {},
    "dilated_blocks_n": 0,
    "dilated_blocks_n_start": 0,
    "dilated_blocks_n_middle": 0,
    "dilation_block_kind": "simple",
    "dilation": 1,
    "second_dilation": None,
    "is_resblock_depthwise": False,
    "affine": None,
    "deconv_kind": "convtranspose",
}
"""Settings of official generators that no published one uses; a config may say so by these values."""
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {"pix2pixhd_nlayer": NLayerDiscriminator}


class GeneratorInterface(Protocol):
    """What a generator has to have, besides being an `nn.Module`.

    size_multiple: height and width of its input are multiples of this. min_size: and at least this.
    """

    size_multiple: int
    min_size: int

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (B, C, H, W), by default the masked image and the mask, C = 4; to an image (B, 3, H, W) in [0, 1].

        A setting `output_nc` of the class says of how many channels images are, if not of 3.
        """
        ...


class DiscriminatorInterface(Protocol):
    """What a discriminator has to have, besides being an `nn.Module`."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`x`: (B, 3, H, W); to scores (B, 1, h, w) and features that the feature matching loss compares."""
        ...


def make_generator(config: Any = None, kind: str | None = None, **settings: Any) -> Generator:
    """The generator that the config section `generator` describes.

    `config`, the whole config, decides nothing; it is the first argument because scripts written for the
    official code call `make_generator(config, **config.generator)`.
    """
    if kind in GENERATORS and settings.get("_target_") is None:
        unused = {name for name, default in OFFICIAL_DEFAULTS.items() if settings.get(name) in (default, None)}
        settings = {name: value for name, value in settings.items() if name not in unused}
    generator = build(GENERATORS, {"kind": kind, **settings}, where="generator", interface=GeneratorInterface)
    check_interface(generator, nn.Module, where="generator", name=str(settings.get("_target_")))
    return generator


def make_discriminator(kind: str | None = None, **settings: Any) -> nn.Module:
    """The discriminator that the config section `discriminator` describes."""
    settings, interface = {"kind": kind, **settings}, DiscriminatorInterface
    discriminator = build(DISCRIMINATORS, settings, where="discriminator", interface=interface)
    check_interface(discriminator, nn.Module, where="discriminator", name=str(settings.get("_target_")))
    return discriminator
