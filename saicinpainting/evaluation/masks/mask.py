"""The official path of segmentation masks and square crops."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from PIL import Image

from saicinpainting.masks import mask_sets
from saicinpainting.masks.generators import GLOBAL_RANDOM
from saicinpainting.masks.segmentation import SegmentationMasks

__all__ = ["RigidnessMode", "SegmentationMask", "propose_random_square_crop"]


class RigidnessMode(Enum):
    """What holes keep off: the object that they have the shape of, or all objects."""

    soft = 0
    rigid = 1


class SegmentationMask(SegmentationMasks):
    """`SegmentationMasks` by the official call; `settings`: its arguments."""

    def __init__(self, *, rigidness_mode: RigidnessMode | str | int = RigidnessMode.rigid, **settings: Any) -> None:
        mode = rigidness_mode.value if isinstance(rigidness_mode, RigidnessMode) else rigidness_mode
        super().__init__(rigidness_mode=mode, **settings)

    def get_masks(self, im: np.ndarray | Image.Image) -> list[np.ndarray]:
        """Holes (H, W), 1 = hole, for uint8 pixels (H, W, 3)."""
        image = im if isinstance(im, Image.Image) else Image.fromarray(np.asarray(im))
        return self.draw_for(image.convert("RGB"))(GLOBAL_RANDOM)


def propose_random_square_crop(mask: np.ndarray, min_overlap: float = 0.5) -> tuple[int, int, int, int]:
    """mask: (H, W) with a hole -> left, top, right, bottom; NumPy's global random numbers decide."""
    return mask_sets.propose_random_square_crop(mask > 0.5, min_overlap=min_overlap, rng=GLOBAL_RANDOM)
