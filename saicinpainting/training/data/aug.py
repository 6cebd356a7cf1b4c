"""Training augmentation: the transform variants as a table of parameters, built with albumentations."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np

# On import albumentations would ask its server for a newer release, and warn where that fails.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A

from saicinpainting.utils import InputError, did_you_mean

Transform: TypeAlias = A.Compose


@dataclass(frozen=True)
class Variant:
    """Geometry of a transform variant; what is None or False is left out, each step has probability .5.

    perspective: largest standard deviation of the corners' jitter, as a share of the side.
    scale: range of the affine scale, drawn for x and y independently; rotate, shear: ± degrees.
    affine_p: probability of the affine step.
    rescale: isotropic rescale by 1 ± this.
    """

    perspective: float | None = None
    scale: tuple[float, float] | None = None
    rotate: float = 40
    shear: float = 0.1
    affine_p: float = 0.5
    rescale: float | None = None
    optical: bool = False
    crop: bool = True
    photometric: bool = True


VARIANTS = {
    "default": Variant(rescale=0.2),
    "distortions": Variant(perspective=0.06, scale=(0.7, 1.3), optical=True),
    "distortions_scale05_1": Variant(perspective=0.06, scale=(0.5, 1.0), affine_p=1, optical=True),
    "distortions_scale03_12": Variant(perspective=0.06, scale=(0.3, 1.2), affine_p=1, optical=True),
    # Brings images of 512 to about 256 px.
    "distortions_scale03_07": Variant(perspective=0.06, scale=(0.3, 0.7), affine_p=1, optical=True),
    "distortions_light": Variant(perspective=0.02, scale=(0.8, 1.8), rotate=20, shear=0.03),
    "non_space_transform": Variant(crop=False),
    "no_augs": Variant(crop=False, photometric=False),
}


class CornerPerspective(A.Perspective):
    """Maps the four jittered corners to the image's corners.

    albumentations 2.0 scales by image size over quadrilateral size although its matrix already ends at the
    image size, so that with `keep_size` the right and the lower part would fall out of the picture.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        return {
            **super().get_params_dependent_on_data(params, data),
            "max_height": height,
            "max_width": width,
        }


def get_transforms(transform_variant: str, out_size: int) -> Transform:
    """The augmentation of one of `VARIANTS`: uint8 (H, W, 3) -> float32 (out_size, out_size, 3) in [0, 1].

    `non_space_transform` and `no_augs` keep the image's size.
    """
    if transform_variant not in VARIANTS:
        raise InputError(
            f"transform_variant: unknown {transform_variant!r}; {did_you_mean(transform_variant, VARIANTS)}"
        )
    variant = VARIANTS[transform_variant]
    steps = _geometric_steps(variant, out_size) if variant.crop else []
    if variant.photometric:
        steps += _photometric_steps()
    return A.Compose([*steps, A.ToFloat(max_value=255)])


def _geometric_steps(variant: Variant, out_size: int) -> list[A.BasicTransform]:
    reflect = {"border_mode": cv2.BORDER_REFLECT_101}
    steps: list[A.BasicTransform] = []
    if variant.rescale is not None:
        steps.append(A.RandomScale(scale_limit=variant.rescale))
    if variant.perspective is not None:
        steps.append(CornerPerspective(scale=(0, variant.perspective), border_mode=cv2.BORDER_REPLICATE))
    if variant.scale is not None:
        shear = (-variant.shear, variant.shear)
        steps.append(
            A.Affine(
                scale={"x": variant.scale, "y": variant.scale},
                rotate=(-variant.rotate, variant.rotate),
                shear={"x": shear, "y": shear},
                p=variant.affine_p,
                **reflect,
            )
        )
    steps.append(A.PadIfNeeded(min_height=out_size, min_width=out_size, **reflect))
    if variant.optical:
        # The official shift of ±.05 is in pixels and rounded to whole ones, so it is none.
        steps.append(A.OpticalDistortion(distort_limit=0.05, **reflect))
    return [*steps, A.RandomCrop(height=out_size, width=out_size), A.HorizontalFlip()]


def _photometric_steps() -> list[A.BasicTransform]:
    return [
        A.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8)),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2),
        A.HueSaturationValue(hue_shift_limit=5, sat_shift_limit=30, val_shift_limit=5),
    ]


def augment(transform: Transform, image: np.ndarray, seed: int) -> np.ndarray:
    """image: uint8 (H, W, 3) -> float32 in [0, 1]; the same `seed` gives the same result.

    `Compose.set_random_seed` would start every step at the same seed, and steps would be applied together or
    not at all; one shared stream keeps them independent.
    """
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform(image=image)["image"]
