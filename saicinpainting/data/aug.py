"""Training augmentation: the official transform variants, geometry as one warp, photometry by albumentations."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

# On import albumentations would ask its server for a newer release, and warn where that fails.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from albucore import multiply_add
from albumentations.augmentations.pixel import functional as pixel

from saicinpainting.data.geometry import GeometricVariant, to_rgb
from saicinpainting.utils import InputError, build_target, did_you_mean


@dataclass(frozen=True)
class Variant:
    """A transform variant; `geometry` None leaves the image's size as it is."""

    geometry: GeometricVariant | None
    photometric: bool = True


VARIANTS = {
    "default": Variant(GeometricVariant(rescale=0.2)),
    "distortions": Variant(GeometricVariant(perspective=0.06, scale=(0.7, 1.3), optical=True)),
    "distortions_scale05_1": Variant(GeometricVariant(perspective=0.06, scale=(0.5, 1.0), affine_p=1, optical=True)),
    "distortions_scale03_12": Variant(GeometricVariant(perspective=0.06, scale=(0.3, 1.2), affine_p=1, optical=True)),
    # Brings images of 512 to about 256 px.
    "distortions_scale03_07": Variant(GeometricVariant(perspective=0.06, scale=(0.3, 0.7), affine_p=1, optical=True)),
    "distortions_light": Variant(GeometricVariant(perspective=0.02, scale=(0.8, 1.8), rotate=20, shear=0.03)),
    "non_space_transform": Variant(None),
    "no_augs": Variant(None, photometric=False),
}


class Augmentation(Protocol):
    """What `data.train.transform_variant` has to have; `out_size` is given to a `_target_` that takes it.

    crops: whether every result is `out_size` high and wide, whatever the size of the image.
    """

    crops: bool

    def __call__(
        self, image: np.ndarray, seed: int, labels: Mapping[str, np.ndarray] | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """As `Transform` does it: the pixels of a file to float32 (C, H', W') in [0, 1], and the labels (H', W')."""
        ...


class Transform:
    """Augments an image, and maps that belong to it, with random numbers that a seed alone decides."""

    def __init__(self, variant: Variant, out_size: int, channels: int = 3) -> None:
        self.variant, self.out_size, self.channels = variant, out_size, channels
        self.crops = variant.geometry is not None

    def __call__(
        self, image: np.ndarray, seed: int, labels: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        Args:
            image: uint8 or uint16 (H, W, C); with `channels=3` also (H, W, 4) with a channel to leave out.
            seed: the same one gives the same result.
            labels: masks or maps of classes (H, W) that follow the image's geometry.

        Returns:
            float32 (C, H', W') in [0, 1], and the labels (H', W'); H' = W' = `out_size` unless the variant keeps the
            image's size.
        """
        rng = random.Random((1 << 32) + seed)  # another stream than that of the sample's mask
        moved = dict(labels or {})
        if self.variant.geometry is None:
            image = self._without_fourth(image)
        else:
            geometry = self.variant.geometry.draw(image.shape[:2], self.out_size, rng)  # type: ignore[arg-type]
            image = self._without_fourth(geometry.warp(image))
            moved = {name: geometry.warp_labels(each) for name, each in moved.items()}
        if self.variant.photometric:
            image = change_colours(image, rng)
        return to_float(image), moved

    def _without_fourth(self, image: np.ndarray) -> np.ndarray:
        return to_rgb(image) if self.channels == 3 else image


def get_transforms(transform_variant: str | Mapping[str, Any], out_size: int, channels: int = 3) -> Augmentation:
    """The augmentation of one of `VARIANTS`, or what `_target_` names; two of them keep the image's size."""
    if not isinstance(transform_variant, str):
        where, offered = "data.train.transform_variant", {"out_size": out_size, "channels": channels}
        if transform_variant.get("_target_") is None:
            raise InputError(f"{where}: expected a name or a mapping with _target_, got {dict(transform_variant)}")
        return build_target(transform_variant, where=where, interface=Augmentation, offered=offered)
    if transform_variant not in VARIANTS:
        raise InputError(
            f"transform_variant: unknown {transform_variant!r}; {did_you_mean(transform_variant, VARIANTS)}"
        )
    return Transform(VARIANTS[transform_variant], out_size, channels)


def change_colours(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """CLAHE, brightness and contrast, hue, saturation and value, each with probability .5.

    image: uint8 or uint16 (H, W, C), grey, RGB, or these with alpha, which stays as it is. Grey has no hue and no
    saturation; what is drawn for them is left out.
    """
    colours, alpha = (image, None) if image.shape[2] % 2 else (image[..., :-1], image[..., -1:])
    plain = colours.dtype == np.uint8 and colours.shape[2] == 3
    if rng.random() < 0.5:
        limit = rng.uniform(1, 4)
        colours = pixel.clahe(colours, limit, (8, 8)) if plain else equalize(colours, limit)
    if rng.random() < 0.5:
        contrast, brightness = 1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        if plain:
            colours = multiply_add(colours, contrast, brightness * 255, inplace=False)
        else:
            most = np.iinfo(colours.dtype).max
            colours = _like(colours, colours * np.float32(contrast) + np.float32(brightness * most))
    if rng.random() < 0.5:
        hue, saturation, value = rng.uniform(-5, 5), rng.uniform(-30, 30), rng.uniform(-5, 5)
        colours = pixel.shift_hsv(colours, hue, saturation, value) if plain else shift(colours, hue, saturation, value)
    return colours if alpha is None else np.dstack([colours, alpha])


def equalize(colours: np.ndarray, limit: float) -> np.ndarray:
    """CLAHE in 8 x 8 tiles of grey, or of RGB's lightness; uint8 or uint16 (H, W, 1 or 3).

    What it adds to the level of 8 bits is added to 16 bits: in as many bins as these have, its limit would cut nothing.
    """
    unit = _unit(colours)
    lab = None if colours.shape[2] == 1 else cv2.cvtColor(unit, cv2.COLOR_RGB2LAB)
    lightness = unit[..., 0] if lab is None else lab[..., 0] / 100
    levels = np.rint(lightness * 255).astype(np.uint8)
    lightness = lightness + (cv2.createCLAHE(limit, (8, 8)).apply(levels).astype(np.float32) - levels) / 255
    if lab is None:
        unit = lightness[..., None]
    else:
        lab[..., 0] = 100 * lightness
        unit = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return _like(colours, unit * np.iinfo(colours.dtype).max)


def shift(colours: np.ndarray, hue: float, saturation: float, value: float) -> np.ndarray:
    """Add to hue, in OpenCV's half degrees, saturation and value, of 255; uint8 or uint16 (H, W, 1 or 3).

    What has no saturation gets none.
    """
    most = np.iinfo(colours.dtype).max
    if colours.shape[2] == 1:
        return _like(colours, colours + np.float32(value / 255 * most))
    h, s, v = cv2.split(cv2.cvtColor(_unit(colours), cv2.COLOR_RGB2HSV))
    s = np.where(s > 0, np.clip(s + np.float32(saturation / 255), 0, 1), s)
    shifted = cv2.merge([np.mod(h + np.float32(2 * hue), 360), s, np.clip(v + np.float32(value / 255), 0, 1)])
    return _like(colours, cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB) * most)


def _unit(colours: np.ndarray) -> np.ndarray:
    """float32 in [0, 1]."""
    return colours.astype(np.float32) / np.iinfo(colours.dtype).max


def _like(colours: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """`changed`, rounded and cut to the range of the integers that `colours` has."""
    return np.rint(changed).clip(0, np.iinfo(colours.dtype).max).astype(colours.dtype)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (H, W, C) -> float32 (C, H, W) in [0, 1]."""
    planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    scale = np.float32(1 / 255) if image.dtype == np.uint8 else None
    for plane, channel in zip(planes, cv2.split(image), strict=True):
        if scale is not None:
            np.multiply(channel, scale, out=plane)
        else:  # as `io.images.planes_of`
            np.divide(channel, np.float32(65535), out=plane)
    return planes
