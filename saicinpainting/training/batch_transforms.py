"""Options of `training_model` that change a batch before the networks see it; no shipped config uses them.

Batches hold `image` (B, 3, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 = hole. All randomness comes from a generator
that is an argument: made by `networks.inputs.batch_rng`, it is the same again when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from saicinpainting.io.images import ceil_modulo
from saicinpainting.losses.distance_weighting import make_mask_distance_weighter
from saicinpainting.utils import InputError, LadderRamp, LinearRamp, call_with_settings, get_ramp

Batch = dict[str, Any]
Settings = Mapping[str, Any]

# The generators halve the resolution three times.
SIDE_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class ConstantAreaCrop:
    """Crops of any aspect ratio and one area. The images have to be large enough: `data.train.out_size=512`.

    Args:
        min_size: shortest side in pixels; height or width, by chance, is uniform from here to `max_size`.
        max_size: longest side.
        area: pixels of a crop, which decide the other side.
        round_to_mod: both sides are rounded up to multiples of this.
    """

    min_size: int = 128
    max_size: int = 512
    area: int = 256 * 256
    round_to_mod: int = 16

    def __post_init__(self) -> None:
        multiple, largest = self.round_to_mod, 0
        if multiple > 0 and multiple % SIDE_MULTIPLE == 0:
            largest = self._floored(self.max_size)
        if not 0 < self.min_size <= largest or not 0 < self.area <= self.min_size * largest:
            raise InputError(
                f"training_model.const_area_crop_kwargs: expected round_to_mod a multiple of {SIDE_MULTIPLE}, "
                "0 < min_size <= max_size, the latter rounded down to a multiple of round_to_mod, and "
                f"0 < area <= min_size * max_size; got {self}"
            )

    def window(self, height: int, width: int, rng: torch.Generator) -> tuple[slice, slice]:
        """Rows and columns of a random crop of an image of `height` x `width` pixels."""
        largest = self._floored(min(height, width, self.max_size))
        smallest = min(self.min_size, largest)
        if largest * smallest < self.area:
            needed = ceil_modulo(-(-self.area // self.min_size), self.round_to_mod)
            raise InputError(
                f"training_model.const_area_crop_kwargs: images of {height}x{width} hold no crop of {self.area} pixels "
                f"with a side of {self.min_size}; set data.train.out_size={needed} or a smaller area"
            )
        side = ceil_modulo(_randint(smallest, largest, rng), self.round_to_mod)
        other = ceil_modulo(max(1, self.area // side), self.round_to_mod)
        h, w = (side, other) if _randint(0, 1, rng) else (other, side)
        top, left = _randint(0, height - h, rng), _randint(0, width - w, rng)
        return slice(top, top + h), slice(left, left + w)

    def _floored(self, size: int) -> int:
        return size // self.round_to_mod * self.round_to_mod

    def __call__(self, batch: Batch, rng: torch.Generator) -> Batch:
        """The same window of every image and mask of the batch."""
        height, width = batch["image"].shape[2:]
        rows, columns = self.window(height, width, rng)
        return {**batch, **{key: batch[key][:, :, rows, columns] for key in ("image", "mask")}}


def _randint(low: int, high: int, rng: torch.Generator) -> int:
    """Uniform in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=rng, device=rng.device))


@dataclass(frozen=True)
class RescaleSchedule:
    """Square batches of a size that follows the step: `rescale_scheduler_kwargs`, a ramp of `utils.get_ramp`.

    `ramp`: from the step to the side in pixels. Between the ends of a linear ramp it is rounded to a multiple of 8.
    """

    ramp: Callable[[int], float]

    def size(self, step: int) -> int:
        return round(self.ramp(step) / SIDE_MULTIPLE) * SIDE_MULTIPLE

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Images bilinear, masks to their nearest pixel, so that they stay 0 or 1."""
        size = self.size(step)
        image = F.interpolate(batch["image"], size=size, mode="bilinear", align_corners=False)
        return {**batch, "image": image, "mask": F.interpolate(batch["mask"], size=size, mode="nearest")}


def make_rescale_schedule(settings: Settings) -> RescaleSchedule:
    """The schedule of `rescale_scheduler_kwargs`; every size named in it must suit the network."""
    where = "training_model.rescale_scheduler_kwargs"
    ramp = call_with_settings(get_ramp, settings, where=where)
    sizes: list[float] = []
    if isinstance(ramp, LadderRamp):
        sizes = list(ramp.values)
    elif isinstance(ramp, LinearRamp):
        sizes = [ramp.start_value, ramp.end_value]
    for size in sizes:
        if size < SIDE_MULTIPLE or size % SIDE_MULTIPLE:
            raise InputError(f"{where}: sizes are sides in pixels, multiples of {SIDE_MULTIPLE}; got {size}")
    return RescaleSchedule(ramp)


@dataclass(kw_only=True)
class BatchOptions:
    """What happens to a batch on its way through a step: keys of the config section `training_model`.

    Args:
        rescale_scheduler_kwargs: train on square images of a size that follows the step; a ramp of `utils.get_ramp`.
        const_area_crop_kwargs: train on random crops of any aspect ratio and one area.
        distance_weighter_kwargs: what the supervised losses of training see instead of the mask; see
            `losses.distance_weighting`.
        distance_weighted_mask_for_discr: the generator's adversarial loss sees that as well.
        fake_fakes_proba: not supported; 0, as in every published model.
        fake_fakes_generator_kwargs: means nothing while `fake_fakes_proba` is 0.
    """

    rescale_scheduler_kwargs: dict[str, Any] | None = None
    const_area_crop_kwargs: ConstantAreaCrop | None = None
    distance_weighter_kwargs: dict[str, Any] | None = None
    distance_weighted_mask_for_discr: bool = False
    fake_fakes_proba: float = 0
    fake_fakes_generator_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.fake_fakes_proba > 1e-3:  # the official threshold
            raise InputError(
                f"training_model.fake_fakes_proba={self.fake_fakes_proba} is not supported; set it to 0, as every "
                "published model does"
            )
        self.weigh_mask = make_mask_distance_weighter(self.distance_weighter_kwargs)
        if self.distance_weighted_mask_for_discr and self.weigh_mask is None:
            where = "training_model.distance_weighted_mask_for_discr"
            raise InputError(f"{where}: there is no weighted mask; set distance_weighter_kwargs")
        settings = self.rescale_scheduler_kwargs
        self.rescale = None if settings is None else make_rescale_schedule(settings)

    @property
    def sizes_vary(self) -> bool:
        return self.rescale is not None or self.const_area_crop_kwargs is not None

    def transform(self, batch: Batch, *, step: int, rng: torch.Generator) -> Batch:
        """A training batch in its new size, then a crop of it.

        Call it once a batch, so that both networks' steps see the same images. `rng` is best on the CPU: the crop's
        size is needed there.
        """
        if self.rescale is not None:
            batch = self.rescale(batch, step)
        return batch if self.const_area_crop_kwargs is None else self.const_area_crop_kwargs(batch, rng)
