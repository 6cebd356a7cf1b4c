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
        """As `Transform` does it: uint8 (H, W, 3 or 4) to float32 (3, H', W') in [0, 1], and the labels (H', W')."""
        ...


class Transform:
    """Augments an image, and maps that belong to it, with random numbers that a seed alone decides."""

    def __init__(self, variant: Variant, out_size: int) -> None:
        self.variant, self.out_size = variant, out_size
        self.crops = variant.geometry is not None

    def __call__(
        self, image: np.ndarray, seed: int, labels: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        Args:
            image: uint8 (H, W, 3), or (H, W, 4) with a channel to leave out.
            seed: the same one gives the same result.
            labels: masks or maps of classes (H, W) that follow the image's geometry.

        Returns:
            float32 (3, H', W') in [0, 1], and the labels (H', W'); H' = W' = `out_size` unless the variant keeps the
            image's size.
        """
        rng = random.Random((1 << 32) + seed)  # another stream than that of the sample's mask
        moved = dict(labels or {})
        if self.variant.geometry is None:
            image = to_rgb(image)
        else:
            geometry = self.variant.geometry.draw(image.shape[:2], self.out_size, rng)  # type: ignore[arg-type]
            image = geometry.warp(image)
            moved = {name: geometry.warp_labels(each) for name, each in moved.items()}
        if self.variant.photometric:
            image = change_colours(image, rng)
        return to_float(image), moved


def get_transforms(transform_variant: str | Mapping[str, Any], out_size: int) -> Augmentation:
    """The augmentation of one of `VARIANTS`, or what `_target_` names; two of them keep the image's size."""
    if not isinstance(transform_variant, str):
        where, offered = "data.train.transform_variant", {"out_size": out_size}
        if transform_variant.get("_target_") is None:
            raise InputError(f"{where}: expected a name or a mapping with _target_, got {dict(transform_variant)}")
        return build_target(transform_variant, where=where, interface=Augmentation, offered=offered)
    if transform_variant not in VARIANTS:
        raise InputError(
            f"transform_variant: unknown {transform_variant!r}; {did_you_mean(transform_variant, VARIANTS)}"
        )
    return Transform(VARIANTS[transform_variant], out_size)


def change_colours(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """CLAHE, brightness and contrast, hue, saturation and value, each with probability .5; uint8 (H, W, 3)."""
    if rng.random() < 0.5:
        image = pixel.clahe(image, rng.uniform(1, 4), (8, 8))
    if rng.random() < 0.5:
        contrast, brightness = 1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        image = multiply_add(image, contrast, brightness * 255, inplace=False)
    if rng.random() < 0.5:
        image = pixel.shift_hsv(image, rng.uniform(-5, 5), rng.uniform(-30, 30), rng.uniform(-5, 5))
    return image


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    planes = np.empty((3, *image.shape[:2]), np.float32)
    for plane, channel in zip(planes, cv2.split(image), strict=True):
        np.multiply(channel, np.float32(1 / 255), out=plane)
    return planes
