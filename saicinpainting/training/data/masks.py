"""The official path of the mask generators."""

from saicinpainting.masks.generators import (
    DrawMethod,
    DumbAreaMaskGenerator,
    OutpaintingMaskGenerator,
    RandomIrregularMaskGenerator,
    RandomRectangleMaskGenerator,
    RandomSuperresMaskGenerator,
)
from saicinpainting.masks.mixed import MixedMaskGenerator, get_mask_generator
