"""What a generator is given, and what is made of its output.

Batches hold `image` (B, C, H, W) in [0, 1], C being `GeneratorInput.image_channels`, and `mask` (B, 1, H, W),
1 = hole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saicinpainting.schema import NO_KEY
from saicinpainting.utils import InputError


def batch_rng(
    seed: int, step: int, rank: int, *, stream: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A random generator that depends on nothing but the run's seed, the step and the process's rank.

    `stream` tells apart the purposes of one step, which shall not see the same numbers. All arguments are 0 or more.
    """
    (state,) = np.random.SeedSequence((seed, step, rank, stream)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state) >> 1)  # torch takes 63 bits


@dataclass(frozen=True, kw_only=True)
class NoiseInput:
    """`scales` channels of Gaussian noise, each at half the resolution of the one before.

    Args:
        scales: number of channels; both sides of an image hold at least 2**(scales - 1) pixels.
        scale_mode: how the coarser ones are enlarged, a mode of `torch.nn.functional.interpolate`.
    """

    scales: int = 6
    scale_mode: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"

    def __post_init__(self) -> None:
        if self.scales < 1:
            raise InputError(f"training_model.add_noise_kwargs.scales: expected 1 or more, got {self.scales}")

    def __call__(self, image: Tensor, rng: torch.Generator) -> Tensor:
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
            coarse = torch.randn(shape, generator=rng, device=rng.device)
            if image.is_cuda and not coarse.is_cuda:  # from other memory the host would wait for the copy
                coarse = coarse.pin_memory()
            coarse = coarse.to(image, non_blocking=image.is_cuda)
            channels.append(
                F.interpolate(coarse, size=(height, width), mode=self.scale_mode, align_corners=align_corners)
            )
        return torch.cat(channels, dim=1)


@dataclass(frozen=True, kw_only=True)
class GeneratorInput:
    """The generator's input: the image without the hole, channels of noise, the mask (paper, section 2).

    Args:
        concat_mask: append the mask.
        add_noise_kwargs: channels of noise; null for none, as every published model has it.
        noise_fill_hole: put the first channels of noise into the hole, which is black otherwise.
        image_channels: of the images, `generator.output_nc`: 3 for RGB, 1 for grey, 2 and 4 for these with alpha.
    """

    concat_mask: bool = True
    add_noise_kwargs: NoiseInput | None = None
    noise_fill_hole: bool = False
    image_channels: int = field(default=3, metadata=NO_KEY)

    def __post_init__(self) -> None:
        if self.noise_fill_hole and self.noise_channels < self.image_channels:
            raise InputError(
                "training_model.noise_fill_hole: there is too little noise to fill the hole with; set "
                f"training_model.add_noise_kwargs.scales to {self.image_channels} or more"
            )

    @property
    def noise_channels(self) -> int:
        return self.add_noise_kwargs.scales if self.add_noise_kwargs else 0

    @property
    def channels(self) -> int:
        """What `generator.input_nc` has to be."""
        return self.image_channels + self.noise_channels + int(self.concat_mask)

    def __call__(self, image: Tensor, mask: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """(B, channels, H, W); `rng` draws the noise and may be None where there is none."""
        x = image * (1 - mask)
        if self.add_noise_kwargs is not None:
            assert rng is not None
            noise = self.add_noise_kwargs(x, rng)
            filled = x + mask * noise[:, : image.shape[1]] if self.noise_fill_hole else x
            x = torch.cat([filled, noise], dim=1)
        return torch.cat([x, mask], dim=1) if self.concat_mask else x


def as_rgb(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, H, W) for networks that were trained on colours; one channel is repeated."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image


def blend(predicted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The prediction in the hole, the image around it; a mask between 0 and 1 mixes them."""
    return mask * predicted + (1 - mask) * image
