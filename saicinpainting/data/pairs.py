"""Folders of images and masks that evaluation and prediction work on."""

from __future__ import annotations

import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from torch.utils.data import Dataset

from saicinpainting.io.folders import IMAGE_SUFFIXES, list_files
from saicinpainting.io.images import ceil_modulo, load_image, pad_img_to_modulo, scale_image
from saicinpainting.masks.generators import MaskGenerator, MaskRandom
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
Sample = dict[str, Any]
T = TypeVar("T")


def batches_of_equal_size(
    samples: Iterable[T], batch_size: int, size_of: Callable[[T], Hashable], *, waiting: int = 0
) -> Iterator[list[T]]:
    """Up to `batch_size` samples of one size, as soon as there are as many.

    waiting: how many of other sizes may wait for more of theirs; then those that have waited longest go, for where
    nearly every image has a size of its own all of them would wait in memory for the end. With 0 the order is kept.
    """
    groups: dict[Hashable, list[T]] = {}
    for sample in samples:
        size = size_of(sample)
        group = groups.setdefault(size, [])
        group.append(sample)
        if len(group) == batch_size:
            yield groups.pop(size)
        elif sum(map(len, groups.values())) - len(group) > waiting:
            yield groups.pop(next(iter(groups)))
    yield from groups.values()


def _describe(files: list[str]) -> str:
    counts = Counter(Path(file).suffix or "no suffix" for file in files)
    return ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(4)) or "nothing"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class _SizedSamples(Dataset[Sample]):
    """What the data sets below share: scaling, then padding, of an image and its mask."""

    def __init__(self, *, pad_out_to_modulo: int | None, scale_factor: float | None) -> None:
        self.pad_out_to_modulo = pad_out_to_modulo
        self.scale_factor = scale_factor

    def size_of_sample(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that an image of this size comes to."""
        if self.scale_factor is not None:
            height, width = (max(1, round(side * self.scale_factor)) for side in (height, width))
        mod = self.pad_out_to_modulo or 1
        return ceil_modulo(height, mod), ceil_modulo(width, mod)

    def _scaled(self, image: np.ndarray, mask: np.ndarray) -> Sample:
        if self.scale_factor is None:
            return {"image": image, "mask": mask}
        nearest = scale_image(mask, self.scale_factor, cv2.INTER_NEAREST)
        return {"image": scale_image(image, self.scale_factor), "mask": nearest}

    def _padded(self, sample: Sample) -> Sample:
        """Adds `unpad_to_size`: (H, W) before padding."""
        mod = self.pad_out_to_modulo
        if mod is None or mod < 2:
            return sample
        padded = {key: pad_img_to_modulo(value, mod) for key, value in sample.items()}
        return {**padded, "unpad_to_size": sample["image"].shape[1:]}


class InpaintingDataset(_SizedSamples):
    """Images `NAME<img_suffix>` with masks `NAME_mask*.png` (or `NAME_mask*<img_suffix>`), in nested folders.

    Samples: `image` float32 (3, H, W) in [0, 1]; `mask` float32 (1, H, W), 1 where the mask file is not black,
    so that soft edges count as hole; with padding, `unpad_to_size`: (H, W).
    """

    _mask_pattern = "NAME_mask*.png"

    def __init__(
        self,
        datadir: str | os.PathLike[str],
        img_suffix: str = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
    ) -> None:
        super().__init__(pad_out_to_modulo=pad_out_to_modulo, scale_factor=scale_factor)
        self.datadir, self.img_suffix = os.fspath(datadir), img_suffix
        files = list_files(self.datadir)
        self.mask_filenames = self._find_masks(files)
        self.img_filenames = [self._image_of(mask) for mask in self.mask_filenames]
        self._check_pairs(files)

    def _find_masks(self, files: list[str]) -> list[str]:
        suffixes = (self.img_suffix, ".png")
        masks = [f for f in files if "_mask" in os.path.basename(f) and f.endswith(suffixes)]
        images = {self._image_of(mask) for mask in masks}
        # An image may itself be called NAME_mask.png; a mask NAME_mask_mask000.png tells.
        return [mask for mask in masks if mask not in images]

    def _image_of(self, mask: str) -> str:
        return mask.rsplit("_mask", 1)[0] + self.img_suffix

    def _check_pairs(self, files: list[str]) -> None:
        suffix = self.img_suffix
        if not self.mask_filenames:
            raise InputError(
                f"{self.datadir}: expected images NAME{suffix} with masks {self._mask_pattern}, found no such "
                f"mask but {_describe(files)}; name the masks so, and set img_suffix to the images' ending"
            )
        present, images = set(files), set(self.img_filenames)
        for mask, image in zip(self.mask_filenames, self.img_filenames, strict=True):
            if image not in present:
                stem = image.removesuffix(suffix)
                other = next((s for s in IMAGE_SUFFIXES if stem + s in present), None)
                hint = f"set img_suffix: {other}" if other else "add the image or remove the mask"
                raise InputError(f"{mask}: its image {image} is missing; {hint}")
        others = present.difference(self.mask_filenames, images)
        unmasked = sorted(f for f in others if f.endswith(suffix))
        if unmasked:
            LOGGER.warning("%d images have no mask and are left out: %s", len(unmasked), _some(unmasked))

    def __len__(self) -> int:
        return len(self.mask_filenames)

    def __getitem__(self, i: int) -> Sample:
        return self._padded(self._read_pair(i))

    def _read_pair(self, i: int) -> Sample:
        image_file, mask_file = self.img_filenames[i], self.mask_filenames[i]
        image = load_image(image_file)
        mask = (load_image(mask_file, mode="L")[None] > 0).astype(np.float32)
        _check_same_size(image_file, image, mask_file, mask, remedy="give the mask the size of its image")
        return self._scaled(image, mask)


def _check_same_size(first_file: str, first: np.ndarray, second_file: str, second: np.ndarray, *, remedy: str) -> None:
    """first, second: (C, H, W)."""
    if first.shape[1:] != second.shape[1:]:
        (h1, w1), (h2, w2) = first.shape[1:], second.shape[1:]
        raise InputError(f"{first_file} is {w1}x{h1} pixels but {second_file} is {w2}x{h2}; {remedy}")


class OurInpaintingDataset(InpaintingDataset):
    """Images in `img/NAME<img_suffix>`, masks in nested folders of `mask/` as `NAME_mask-N.png`."""

    _mask_pattern = "mask/NAME_mask-N.png"

    def _find_masks(self, files: list[str]) -> list[str]:
        inside = os.path.join(self.datadir, "mask") + os.sep
        suffixes = (self.img_suffix, ".png")
        return [f for f in files if f.startswith(inside) and "mask" in os.path.basename(f) and f.endswith(suffixes)]

    def _image_of(self, mask: str) -> str:
        name = os.path.basename(mask).rsplit("-", 1)[0].rsplit("_", 1)[0]
        return os.path.join(self.datadir, "img", name + self.img_suffix)


class PrecomputedInpaintingResultsDataset(InpaintingDataset):
    """`InpaintingDataset` with `inpainted`: float32 (3, H, W), read from predictions that carry the mask's name."""

    def __init__(
        self,
        datadir: str | os.PathLike[str],
        predictdir: str | os.PathLike[str],
        inpainted_suffix: str = "_inpainted.jpg",
        img_suffix: str = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
    ) -> None:
        super().__init__(datadir, img_suffix, pad_out_to_modulo, scale_factor)
        self.predictdir = os.fspath(predictdir)
        names = [os.path.splitext(os.path.relpath(mask, self.datadir))[0] for mask in self.mask_filenames]
        self.pred_filenames = [os.path.join(self.predictdir, name + inpainted_suffix) for name in names]
        missing = sorted(set(self.pred_filenames).difference(list_files(self.predictdir)))
        if missing:
            raise InputError(
                f"{len(missing)} of {len(self)} predictions are missing in {self.predictdir}: {_some(missing)}; "
                "predict this data set first, and set inpainted_suffix to the predictions' ending"
            )

    def __getitem__(self, i: int) -> Sample:
        sample = self._read_pair(i)
        inpainted = load_image(self.pred_filenames[i])
        _check_same_size(
            self.img_filenames[i],
            sample["image"],
            self.pred_filenames[i],
            inpainted,
            remedy="predict again at the size of the image",
        )
        return self._padded({**sample, "inpainted": inpainted})


class InpaintingEvalOnlineDataset(_SizedSamples):
    """Images `*<img_suffix>` in nested folders with masks drawn on the fly.

    An image's mask follows from its name alone, so every epoch and every model sees the same masks.
    """

    def __init__(
        self,
        indir: str | os.PathLike[str],
        mask_generator: MaskGenerator,
        img_suffix: str = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
    ) -> None:
        super().__init__(pad_out_to_modulo=pad_out_to_modulo, scale_factor=scale_factor)
        self.indir, self.mask_generator = os.fspath(indir), mask_generator
        files = list_files(self.indir)
        self.img_filenames = [f for f in files if f.endswith(img_suffix)]
        if not self.img_filenames:
            raise InputError(
                f"{self.indir}: expected images *{img_suffix}, found {_describe(files)}; "
                "set img_suffix to the images' ending"
            )

    def __len__(self) -> int:
        return len(self.img_filenames)

    def __getitem__(self, i: int) -> Sample:
        image = load_image(self.img_filenames[i])
        name = Path(self.img_filenames[i]).relative_to(self.indir).as_posix()
        rng = MaskRandom.seeded(zlib.crc32(os.fsencode(name)))
        mask = self.mask_generator(image, raw_image=image, rng=rng)
        return self._padded(self._scaled(image, mask))
