"""What a generator is given, and what is made of its output.

Batches hold `image` (B, 3, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 = hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saicinpainting.utils import InputError, call_with_settings, did_you_mean

Settings = Mapping[str, Any]


def batch_rng(
    seed: int, step: int, rank: int, *, stream: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A random generator that depends on nothing but the run's seed, the step and the process's rank.

    `stream` tells apart the purposes of one step, which shall not see the same numbers. All arguments are 0 or more.
    """
    (state,) = np.random.SeedSequence((seed, step, rank, stream)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state) >> 1)  # torch takes 63 bits


@dataclass(frozen=True, kw_only=True)
class GeneratorInput:
    """The generator's input: the image without the hole, channels of noise, the mask (paper, section 2).

    Args:
        concat_mask: append the mask.
        noise: the noise channels; None for none, as every published model has it.
    """

    concat_mask: bool = True
    noise: NoiseInput | None = None

    @property
    def channels(self) -> int:
        """What `generator.input_nc` has to be."""
        return 3 + (self.noise.scales if self.noise else 0) + int(self.concat_mask)

    def __call__(self, image: Tensor, mask: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """(B, channels, H, W); `rng` draws the noise and may be None where there is none."""
        x = image * (1 - mask)
        if self.noise is not None:
            assert rng is not None
            x = self.noise(x, mask, rng)
        return torch.cat([x, mask], dim=1) if self.concat_mask else x


def blend(predicted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The prediction in the hole, the image around it; a mask between 0 and 1 mixes them."""
    return mask * predicted + (1 - mask) * image


@dataclass(frozen=True, kw_only=True)
class NoiseInput:
    """`scales` more input channels of Gaussian noise, each at half the resolution of the one before:
    `add_noise_kwargs`. `generator.input_nc` is 4 + `scales`.

    Args:
        scales: number of channels; both sides of an image hold at least 2**(scales - 1) pixels.
        scale_mode: how the coarser ones are enlarged, a mode of `torch.nn.functional.interpolate`.
        fill_hole: put the first three of them into the hole, which is black otherwise: `noise_fill_hole`.
    """

    scales: int = 6
    scale_mode: str = "bilinear"
    fill_hole: bool = False

    def __post_init__(self) -> None:
        where = "training_model.add_noise_kwargs"
        if self.scales < 1 or (self.fill_hole and self.scales < 3):
            raise InputError(f"{where}.scales: expected 1 or more, 3 or more to fill the hole, got {self.scales}")
        modes = ("nearest", "bilinear", "bicubic", "area")
        if self.scale_mode not in modes:
            raise InputError(f"{where}.scale_mode: unknown value; {did_you_mean(self.scale_mode, modes)}")

    def noise(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """(B, scales, H, W) for `image` (B, C, H, W), on its device and in its dtype."""
        batch, _, height, width = image.shape
        if min(height, width) < 2 ** (self.scales - 1):
            raise InputError(
                f"training_model.add_noise_kwargs.scales={self.scales}: an image of {height}x{width} cannot be halved "
                f"{self.scales - 1} times; use larger images or fewer scales"
            )
        align_corners = False if self.scale_mode in ("bilinear", "bicubic") else None
        channels = []
        for scale in range(self.scales):
            shape = (batch, 1, height >> scale, width >> scale)
            coarse = torch.randn(shape, generator=rng, device=rng.device).to(image)
            channels.append(
                F.interpolate(coarse, size=(height, width), mode=self.scale_mode, align_corners=align_corners)
            )
        return torch.cat(channels, dim=1)

    def __call__(self, masked_image: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 3 + scales, H, W): the image (B, 3, H, W) without the hole of `mask` (B, 1, H, W), then the noise."""
        noise = self.noise(masked_image, rng)
        if self.fill_hole:
            masked_image = masked_image + mask * noise[:, : masked_image.shape[1]]
        return torch.cat([masked_image, noise], dim=1)


def make_noise_input(*, add_noise_kwargs: Settings | None = None, noise_fill_hole: bool = False) -> NoiseInput | None:
    """From the options of `training_model`, by their official names."""
    if add_noise_kwargs is None:
        if noise_fill_hole:
            raise InputError("training_model.noise_fill_hole: there is no noise to fill it with; set add_noise_kwargs")
        return None
    if "fill_hole" in add_noise_kwargs:
        raise InputError("training_model.add_noise_kwargs.fill_hole: unknown key; set training_model.noise_fill_hole")
    settings = {**add_noise_kwargs, "fill_hole": noise_fill_hole}
    return call_with_settings(NoiseInput, settings, where="training_model.add_noise_kwargs")
