"""Masks drawn at random from a folder of mask images."""

from __future__ import annotations

import logging
import os
from typing import Any

import cv2
import numpy as np
import torch

from saicinpainting.io.folders import IMAGE_SUFFIXES, list_files
from saicinpainting.io.images import LONGEST_SIDE
from saicinpainting.io.masks import read_hole
from saicinpainting.masks.generators import MaskGenerator, MaskRandom, Size
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
TRIES = 20
"""Crops that are drawn before a mask image counts as one without a hole."""
LONGEST_ROW = 100
"""More bad mask images in a row than this: probably a folder of something else."""


class FolderMaskGenerator(MaskGenerator):
    """One of the mask images under `indir`, see `read_hole`; flipped with probability .5.

    Images are scaled so that they cover the wanted size, and a random part of that size is taken which has a hole
    and something known. A image without such a part, or that cannot be read, is named once; another one is drawn.
    """

    def __init__(self, *, indir: str | os.PathLike[str]) -> None:
        self.indir = indir
        self.files = [file for file in list_files(indir) if file.lower().endswith(IMAGE_SUFFIXES)]
        if not self.files:
            raise InputError(f"{indir}: no mask image there ({', '.join(IMAGE_SUFFIXES)})")
        # Shared with a loader's workers, so that a file is named once.
        self._named = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        problem = ""
        for _ in range(LONGEST_ROW):
            number = int(rng.numpy.randint(len(self.files)))
            try:
                return self._part(self.files[number], size, rng)
            except InputError as error:
                problem = str(error)
                if not self._named[number]:
                    self._named[number] = True
                    LOGGER.warning("%s; another mask takes its place", problem)
        raise InputError(f"{self.indir}: {LONGEST_ROW} mask images in a row are unusable; the last one: {problem}")

    def _part(self, file: str, size: Size, rng: MaskRandom) -> np.ndarray:
        mask = read_hole(file).astype(np.uint8)
        if (longest := round(max(mask.shape) * max(size) / min(mask.shape))) > LONGEST_SIDE:
            raise InputError(f"{file}: {mask.shape[1]}x{mask.shape[0]} pixels would come to a side of {longest}")
        if rng.numpy.randint(2):
            mask = mask[:, ::-1]
        mask = self._covering(mask, size)
        for _ in range(TRIES):
            top, left = (rng.numpy.randint(have - want + 1) for have, want in zip(mask.shape, size, strict=True))
            part = mask[top : top + size[0], left : left + size[1]]
            if part.any() and not part.all():
                return part.astype(np.float32)
        raise InputError(f"{file}: {TRIES} parts of {size[1]}x{size[0]} pixels were all hole or had none")

    @staticmethod
    def _covering(mask: np.ndarray, size: Size) -> np.ndarray:
        """Shrunk, a pixel is hole where any of it was, so that thin strokes stay."""
        (height, width), (rows, columns) = mask.shape, size
        scale = max(rows / height, columns / width)
        wanted = max(round(width * scale), columns), max(round(height * scale), rows)
        if scale >= 1:
            return cv2.resize(np.ascontiguousarray(mask), wanted, interpolation=cv2.INTER_NEAREST)
        return cv2.resize(mask.astype(np.float32), wanted, interpolation=cv2.INTER_AREA) > 0
