"""Folders of images and masks that evaluation and prediction work on."""

from __future__ import annotations

import filecmp
import os
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from torch.utils.data import Dataset

from saicinpainting.data.naming import ImageFiles, describe, pairs_beside, pairs_with_masks, some, with_dot
from saicinpainting.io.folders import IMAGE_SUFFIXES, list_files
from saicinpainting.io.images import ceil_modulo, load_planes, pad_img_to_modulo, scale_image
from saicinpainting.io.masks import read_hole
from saicinpainting.io.pixels import decode_pixels, is_deep, open_image, orientation_of, read_bytes, turned_note
from saicinpainting.masks.generators import MaskGenerator, MaskRandom
from saicinpainting.utils import InputError, check_whole

Sample = dict[str, Any]
T = TypeVar("T")
HEADER_READERS = 8
"""Threads; over a network a header takes milliseconds."""


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


def plan_batches(
    files: Sequence[str], batch_size: int, size_of: Callable[[int, int], Hashable], *, waiting: int = 0
) -> list[list[int]]:
    """Numbers of the images `files` in batches as `batches_of_equal_size` forms them, without decoding any.

    The sizes are those in the files' headers, so that whoever reads a batch has to look whether they hold. An image
    that does not tell its size is a batch of its own.

    size_of: height and width of an image -> what a batch has in common, besides the depth.
    """
    if batch_size == 1:
        return [[number] for number in range(len(files))]
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        images = list(dict.fromkeys(files))
        headers = dict(zip(images, pool.map(_header, images), strict=True))

    def key(number: int) -> Hashable:
        header = headers[files[number]]
        return number if header is None else (size_of(*header[:2]), header[2])

    return list(batches_of_equal_size(range(len(files)), batch_size, key, waiting=waiting))


def _header(file: str) -> tuple[int, int, bool] | None:
    """Height and width as they are upright, and whether there are 16 bits a channel."""
    try:
        with open_image(file) as image:
            # A PNG would be decoded to find how it is turned, which is rare.
            turned = image.format in ("JPEG", "MPO") and orientation_of(image) >= 5
            width, height = image.size[::-1] if turned else image.size
            return height, width, is_deep(image)
    except Exception:  # reading the image says why
        return None


class _SizedSamples(Dataset[Sample]):
    """What the data sets below share: reading, scaling, then padding, of an image and its mask.

    Attributes:
        channels: of the images, 3 unless whoever knows the network sets another number; see `io.images.in_channels`.
    """

    channels = 3

    def __init__(self, *, pad_out_to_modulo: int | None, scale_factor: float | None) -> None:
        if pad_out_to_modulo is not None:
            check_whole("dataset.pad_out_to_modulo", pad_out_to_modulo)
        if scale_factor is not None and not (isinstance(scale_factor, int | float) and scale_factor > 0):
            raise InputError(f"dataset.scale_factor: expected a number above 0, got {scale_factor!r}")
        self.pad_out_to_modulo = pad_out_to_modulo
        self.scale_factor = scale_factor

    def size_of_sample(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that an image of this size comes to."""
        if self.scale_factor is not None:
            height, width = (max(1, round(side * self.scale_factor)) for side in (height, width))
        mod = self.pad_out_to_modulo or 1
        return ceil_modulo(height, mod), ceil_modulo(width, mod)

    def _read(self, file: str) -> np.ndarray:
        """float32 (C, H, W) in [0, 1]."""
        return load_planes(decode_pixels(read_bytes(file), file), file, self.channels)

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
    """Images `NAME.*` with masks `NAME_mask*.*` beside them, in nested folders.

    Samples: `image` float32 (C, H, W) in [0, 1]; `mask` float32 (1, H, W), 1 where the mask file says hole (see
    `read_hole`), soft edges too; with padding, `unpad_to_size`: (H, W).

    Args:
        datadir: the folder, or one image.
        img_suffix: what images end with (None: `.png`); another ending is taken where a name has no other.
        mask_path: one mask for all images, or a folder of masks `NAME.*` or `NAME_mask*.*`; None: beside the images.
    """

    _mask_pattern = "NAME_mask*.png"

    def __init__(
        self,
        datadir: str | os.PathLike[str],
        img_suffix: str | None = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
        mask_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(pad_out_to_modulo=pad_out_to_modulo, scale_factor=scale_factor)
        img_suffix = with_dot(img_suffix)
        self.datadir, self.img_suffix = os.fspath(datadir), img_suffix
        if os.path.isfile(self.datadir):
            one, self.datadir = self.datadir, os.path.dirname(self.datadir) or os.curdir
            files, img_suffix = _with_its_masks(one, beside=mask_path is None), os.path.splitext(one)[1]
        else:
            files = list_files(self.datadir)
        if mask_path is None:
            found = pairs_beside(
                files,
                self.datadir,
                img_suffix,
                is_mask=self._is_mask,
                image_stem=self._image_stem,
                pattern=self._mask_pattern,
            )
        else:
            found = pairs_with_masks(files, self.datadir, img_suffix, os.fspath(mask_path))
        self.img_filenames = [pair.image for pair in found]
        self.mask_filenames = [pair.mask for pair in found]
        self.names = [pair.name for pair in found]

    def _is_mask(self, file: str) -> bool:
        return "_mask" in os.path.basename(file)

    def _image_stem(self, mask: str) -> str:
        return mask.rsplit("_mask", 1)[0]

    def __len__(self) -> int:
        return len(self.mask_filenames)

    def __getitem__(self, i: int) -> Sample:
        return self._padded(self._read_pair(i))

    def _read_pair(self, i: int) -> Sample:
        image_file, mask_file = self.img_filenames[i], self.mask_filenames[i]
        image = self._read(image_file)
        mask = read_hole(mask_file)[None].astype(np.float32)
        _check_same_size(image_file, image, mask_file, mask, remedy="give the mask the size of its image")
        return self._scaled(image, mask)


def _with_its_masks(image: str, *, beside: bool) -> list[str]:
    """The file and, if they lie beside it, its masks."""
    if not beside:
        return [image]
    folder, name = os.path.split(os.path.splitext(image)[0])
    files = (os.path.join(folder, file) for file in sorted(os.listdir(folder or os.curdir)))
    return [image, *(file for file in files if os.path.basename(file).rsplit("_mask", 1)[0] == name and file != image)]


def _check_same_size(first_file: str, first: np.ndarray, second_file: str, second: np.ndarray, *, remedy: str) -> None:
    """first, second: (C, H, W)."""
    if first.shape[1:] != second.shape[1:]:
        (h1, w1), (h2, w2) = first.shape[1:], second.shape[1:]
        turned = turned_note(first_file, second_file)
        raise InputError(f"{first_file} is {w1}x{h1} pixels but {second_file} is {w2}x{h2}; {remedy}{turned}")


class OurInpaintingDataset(InpaintingDataset):
    """Images in `img/NAME.*`, masks in nested folders of `mask/` as `NAME_mask-N.png`."""

    _mask_pattern = "mask/NAME_mask-N.png"

    def _is_mask(self, file: str) -> bool:
        return file.startswith(os.path.join(self.datadir, "mask") + os.sep) and "mask" in os.path.basename(file)

    def _image_stem(self, mask: str) -> str:
        name = os.path.basename(mask).rsplit("-", 1)[0].rsplit("_", 1)[0]
        return os.path.join(self.datadir, "img", name)


class PrecomputedInpaintingResultsDataset(InpaintingDataset):
    """`InpaintingDataset` with `inpainted`: float32 (C, H, W), read from predictions that carry the mask's name."""

    def __init__(
        self,
        datadir: str | os.PathLike[str],
        predictdir: str | os.PathLike[str],
        inpainted_suffix: str | None = "_inpainted.jpg",
        img_suffix: str | None = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
        mask_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(datadir, img_suffix, pad_out_to_modulo, scale_factor, mask_path)
        self.predictdir, inpainted_suffix = os.fspath(predictdir), with_dot(inpainted_suffix)
        files = list_files(self.predictdir)
        present, images = set(files), ImageFiles(files)
        self.pred_filenames, missing = [], []
        for name in self.names:
            wanted = os.path.join(self.predictdir, name) + inpainted_suffix
            stem = wanted.removesuffix(inpainted_suffix)
            found = wanted if wanted in present else images.find(stem, inpainted_suffix, "inpainted_suffix")
            self.pred_filenames.append(found or wanted)
            missing += [] if found else [wanted]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(self)} predictions are missing in {self.predictdir}: {some(sorted(missing))}; "
                "predict this data set first, and set inpainted_suffix to the predictions' ending"
            )
        if all(map(_same_content, self.pred_filenames, self.mask_filenames)):
            raise InputError(
                f"{self.predictdir}: what should be predictions are the masks of {self.datadir}, such as "
                f"{self.pred_filenames[0]}; name the folder that the results were written to"
            )

    def __getitem__(self, i: int) -> Sample:
        sample = self._read_pair(i)
        inpainted = self._read(self.pred_filenames[i])
        _check_same_size(
            self.img_filenames[i],
            sample["image"],
            self.pred_filenames[i],
            inpainted,
            remedy="predict again at the size of the image",
        )
        return self._padded({**sample, "inpainted": inpainted})


def _same_content(first: str, second: str) -> bool:
    return os.path.samefile(first, second) or filecmp.cmp(first, second, shallow=False)


class InpaintingEvalOnlineDataset(_SizedSamples):
    """Images `*<img_suffix>`, or of any ending if there are none, in nested folders with masks drawn on the fly.

    An image's mask follows from its name alone, so every epoch and every model sees the same masks.
    """

    def __init__(
        self,
        indir: str | os.PathLike[str],
        mask_generator: MaskGenerator,
        img_suffix: str | None = ".jpg",
        pad_out_to_modulo: int | None = None,
        scale_factor: float | None = None,
    ) -> None:
        super().__init__(pad_out_to_modulo=pad_out_to_modulo, scale_factor=scale_factor)
        self.indir, self.mask_generator = os.fspath(indir), mask_generator
        files = list_files(self.indir)
        images = [f for f in files if f.lower().endswith(IMAGE_SUFFIXES)]
        img_suffix = with_dot(img_suffix)
        self.img_filenames = [f for f in files if f.endswith(img_suffix)] or images
        if not self.img_filenames:
            raise InputError(f"{self.indir}: expected images *{img_suffix}, found {describe(files)}; check the folder")

    def __len__(self) -> int:
        return len(self.img_filenames)

    def __getitem__(self, i: int) -> Sample:
        image = self._read(self.img_filenames[i])
        name = Path(self.img_filenames[i]).relative_to(self.indir).as_posix()
        rng = MaskRandom.seeded(zlib.crc32(os.fsencode(name)))
        mask = self.mask_generator(image, raw_image=image, rng=rng)
        return self._padded(self._scaled(image, mask))
