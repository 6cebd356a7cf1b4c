"""Masks drawn at random from a folder of mask pictures."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from saicinpainting.evaluation.data import IMAGE_SUFFIXES, list_files, read_image
from saicinpainting.evaluation.masks.generators import MaskGenerator, MaskRandom, Size
from saicinpainting.utils import InputError

TRIES = 20
"""Crops that are drawn before a mask picture counts as one without a hole."""


class FolderMaskGenerator(MaskGenerator):
    """One of the mask pictures under `indir`, grey, every value above 0 is hole; flipped with probability .5.

    Pictures are scaled so that they cover the wanted size, and a random part of that size is taken which has a hole
    and something known.
    """

    def __init__(self, *, indir: str | os.PathLike[str]) -> None:
        self.files = [file for file in list_files(indir) if file.lower().endswith(IMAGE_SUFFIXES)]
        if not self.files:
            raise InputError(f"{indir}: no mask picture there ({', '.join(IMAGE_SUFFIXES)})")

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        file = self.files[rng.numpy.randint(len(self.files))]
        mask = (np.asarray(read_image(file, "L")) > 0).astype(np.uint8)
        if rng.numpy.randint(2):
            mask = mask[:, ::-1]
        mask = self._covering(mask, size)
        for _ in range(TRIES):
            top, left = (rng.numpy.randint(have - want + 1) for have, want in zip(mask.shape, size, strict=True))
            part = mask[top : top + size[0], left : left + size[1]]
            if part.any() and not part.all():
                return part.astype(np.float32)
        raise InputError(f"{file}: {TRIES} parts of {size[1]}x{size[0]} pixels were all hole or had none; remove it")

    @staticmethod
    def _covering(mask: np.ndarray, size: Size) -> np.ndarray:
        (height, width), (rows, columns) = mask.shape, size
        scale = max(rows / height, columns / width)
        wanted = max(round(width * scale), columns), max(round(height * scale), rows)
        return cv2.resize(np.ascontiguousarray(mask), wanted, interpolation=cv2.INTER_NEAREST)
