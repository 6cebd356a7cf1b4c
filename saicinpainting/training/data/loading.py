"""From the encoded files of a source to pixels."""

from __future__ import annotations

import numpy as np

from saicinpainting.evaluation.data import decode_image
from saicinpainting.training.data.sources import ImageSource


class ImageLoader:
    """Decodes the images of `source`."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def load(self, index: int) -> tuple[int, np.ndarray]:
        """The number of the image that was loaded, and its pixels: uint8 RGB (H, W, 3)."""
        return index, np.asarray(decode_image(self.source.read(index), self.source.name(index)))
