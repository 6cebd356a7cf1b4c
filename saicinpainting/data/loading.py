"""From the encoded files of a source to pixels: fast for ordinary JPEGs, tolerant of the rest, which it reports."""

from __future__ import annotations

import io
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

from saicinpainting.data.sources import MASK, WHERE, ImageSource, SourceError
from saicinpainting.io.budgets import BudgetError, check_pixels, check_scans
from saicinpainting.io.images import LONGEST_SIDE, in_channels
from saicinpainting.io.masks import decode_hole
from saicinpainting.io.pixels import decode_pixels, is_deep, open_image, orientation_of
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
EXIF_BEGINS = 1 << 12
"""Bytes of a JPEG within which its EXIF data begin: they come first, or after a short JFIF header."""
NAMED = 200
"""How many files of a issue a run names; of the rest it tells the number."""
FEWEST_FAILURES = 10
"""Fewer unusable images than this never stop a run, whatever their share: small folders have large shares."""
CHANCE = 4
"""Standard deviations by which the share of unusable images may exceed its limit while a part of the set is seen."""
TRIES_NEARBY = 10
"""How many others of its shard may take an unusable image's place before those of all shards do."""
LONGEST_ROW = 100
"""So many unusable images in a row, drawn from anywhere, are no dirt but a disk that is gone."""


class ImageIssue(IntEnum):
    """What is unusual about an image file. All but the last two are converted and used."""

    UNSEEN = 0
    ORDINARY = 1
    GREY = 2
    CMYK = 3
    SIXTEEN_BIT = 4
    PALETTE = 5
    ALPHA = 6
    TURNED = 7
    TINY = 8
    UNREADABLE = 9
    WRONG_SIZE = 10

    @property
    def usable(self) -> bool:
        return self < ImageIssue.UNREADABLE


WORDS = {
    ImageIssue.GREY: "grey",
    ImageIssue.CMYK: "CMYK; converted to RGB",
    ImageIssue.SIXTEEN_BIT: "16 bits a channel",
    ImageIssue.PALETTE: "with a palette; converted to RGB",
    ImageIssue.ALPHA: "with transparency; its colours are used as they are",
    ImageIssue.TURNED: "turned by its EXIF orientation; stood upright",
    ImageIssue.TINY: "tiny; enlarged",
    ImageIssue.UNREADABLE: "unreadable; another image takes its place",
    ImageIssue.WRONG_SIZE: "of another size than data.train.out_size; another image takes its place",
}


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 or uint16 (H, W, C), of RGB also (H, W, 4) with a byte to leave out; labels: (H, W), by label."""

    pixels: np.ndarray
    issue: ImageIssue
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)


def decode(data: bytes, name: str, channels: int = 3) -> Decoded:
    """Any image file in so many channels, as `io.images.in_channels` has them; 16 bits are kept.

    Raises:
        InputError: it cannot be read; truncated files count as such.
    """
    issue = _of_plain_jpeg(data, name)
    if issue is not None and (channels == 3 or (channels == 1 and issue == ImageIssue.GREY)):
        try:
            return Decoded(simplejpeg.decode_jpeg(data, "RGBX" if channels == 3 else "GRAY", strict=True), issue)
        except MemoryError as error:
            raise InputError(f"cannot read the image {name}: it is too large for the memory") from error
        except ValueError:  # whatever libjpeg warns of; Pillow tells what is harmless
            pass
    return Decoded(in_channels(decode_pixels(data, name), channels, name), _issue_of(data))


def _of_plain_jpeg(data: bytes, name: str) -> ImageIssue | None:
    """None unless it is an upright JPEG with one or three colour channels."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError:
        return None
    try:
        check_pixels(width, height)
        check_scans(data, width, height)
    except BudgetError as error:
        raise InputError(f"cannot read the image {name}: {error}") from error
    if colours not in ("YCbCr", "Gray") or (data.find(b"Exif\0\0", 0, EXIF_BEGINS) >= 0 and _orientation(data) != 1):
        return None
    return ImageIssue.ORDINARY if colours == "YCbCr" else ImageIssue.GREY


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as file:
            return orientation_of(file)
    except Exception:  # what it is, decoding tells
        return 1


def _issue_of(data: bytes) -> ImageIssue:
    """Of a file that Pillow can read."""
    with Image.open(io.BytesIO(data)) as file:
        mode, transparent, deep = file.mode, "transparency" in file.info, is_deep(file)
    if _orientation(data) != 1:
        return ImageIssue.TURNED
    if deep:
        return ImageIssue.SIXTEEN_BIT
    if mode == "CMYK":
        return ImageIssue.CMYK
    if mode == "P":
        return ImageIssue.PALETTE
    if mode in ("LA", "PA", "RGBA") or transparent:
        return ImageIssue.ALPHA
    return ImageIssue.GREY if mode in ("1", "L") else ImageIssue.ORDINARY


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """A map of classes, as the file holds them: (H, W), uint8 or int32; indices into a palette stay indices.

    Raises:
        InputError: it cannot be read, or has colours.
    """
    try:
        with open_image(io.BytesIO(data)) as file:
            if file.mode not in ("1", "L", "P") and not file.mode.startswith("I"):
                raise InputError(f"expected grey values or a palette, got {file.mode}")
            values = np.asarray(file)
    except Exception as error:
        raise InputError(f"cannot read the labels {name}: {error}") from error
    return values.astype(np.int32) if values.dtype.itemsize > 1 else values.astype(np.uint8)


def enlarged(image: Decoded, shorter_side: int) -> Decoded:
    """Bicubic, labels nearest, with the shorter side as given."""
    height, width = image.pixels.shape[:2]
    scale = shorter_side / min(height, width)
    size = max(round(width * scale), shorter_side), max(round(height * scale), shorter_side)
    pixels = cv2.resize(image.pixels, size, interpolation=cv2.INTER_CUBIC)
    return Decoded(
        pixels.reshape(*pixels.shape[:2], -1),  # OpenCV drops a single channel
        ImageIssue.TINY,
        {name: cv2.resize(values, size, interpolation=cv2.INTER_NEAREST) for name, values in image.labels.items()},
    )


@dataclass(frozen=True)
class Fitting:
    """How images come to the size of a sample.

    Args:
        out_size: the side of the samples; None leaves images as they are.
        channels: of the images.
        crops: whether images are cropped to `out_size`; otherwise they must have that size. Images less than half as
            large as a crop are enlarged to it, those between are left to the crop's mirrored border.
    """

    out_size: int | None = None
    crops: bool = True
    channels: int = 3

    def load(self, source: ImageSource, index: int, labels: Sequence[str] = ()) -> Decoded:
        """Image `index` of `source`, with these of its labels.

        Raises:
            InputError: it is broken, of the wrong size, or longer than can be warped.
            OSError: its file cannot be read.
        """
        decoded = decode(source.read(index), source.name(index), self.channels)
        if labels:
            decoded = replace(decoded, labels=_load_labels(source, index, labels, decoded))
        height, width = decoded.pixels.shape[:2]
        scale = self._scale(min(height, width))
        if self.crops and (longer := round(max(height, width) * scale)) > LONGEST_SIDE:
            raise InputError(
                f"{source.name(index)}: {width}x{height} pixels make a longer side of {longer} for a crop; expected up "
                f"to {LONGEST_SIDE}; cut it into parts"
            )
        if self.out_size is None:
            return decoded
        if not self.crops and (height, width) != (self.out_size, self.out_size):
            raise WrongSizeError(
                f"{source.name(index)} is {width}x{height} pixels but out_size is {self.out_size}; resize the images "
                "or set transform_variant to one that crops"
            )
        return enlarged(decoded, self.out_size) if scale > 1 else decoded

    def _scale(self, shorter_side: int) -> float:
        """What an image is enlarged by."""
        return self.out_size / shorter_side if self.out_size and 2 * shorter_side < self.out_size else 1


def _load_labels(source: ImageSource, index: int, labels: Sequence[str], image: Decoded) -> dict[str, np.ndarray]:
    loaded, size, issue = {}, image.pixels.shape[:2], image.issue
    for label in labels:
        name = source.name(index)
        values = _decode_label(source.read_label(index, label), label, name)
        if values.shape != size:
            turned = " and turn it as its EXIF orientation turns the image" if issue == ImageIssue.TURNED else ""
            raise InputError(
                f"{name} is {size[1]}x{size[0]} pixels, its {label} {values.shape[1]}x{values.shape[0]}; give both "
                f"one size{turned}"
            )
        loaded[label] = values
    return loaded


def _decode_label(data: bytes, label: str, image: str) -> np.ndarray:
    """A mask, 255 = hole, may have colours and an orientation, as in evaluation sets; other labels are classes."""
    name = f"{label} of {image}"
    return decode_hole(data, name).astype(np.uint8) * 255 if label == MASK else decode_labels(data, name)


class WrongSizeError(InputError):
    """An image that is not cropped has another size than the batch needs."""


def failure_of(error: Exception) -> ImageIssue:
    """What an error of `Fitting.load` says of the image."""
    return ImageIssue.WRONG_SIZE if isinstance(error, WrongSizeError) else ImageIssue.UNREADABLE


def reason_of(error: Exception, name: str) -> str:
    """An error about the file `name` without that name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rpartition(name)[2].lstrip(": ")


class ImageLoader:
    """Loads the images of `source`; what cannot be used is reported once and replaced by another image.

    Args:
        max_failures: the largest share of unusable images, in [0, 1].
        labels: the labels to load with the images.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        fitting: Fitting = Fitting(),
        max_failures: float = 0.05,
        labels: Sequence[str] = (),
    ) -> None:
        if not 0 <= max_failures <= 1:
            raise InputError(f"{WHERE}.max_failures: expected a share from 0 to 1, got {max_failures}")
        self.source, self.fitting, self.max_failures = source, fitting, max_failures
        self.labels = tuple(labels)
        # Shared with the loader's workers, so that a file is named once and failures are counted over all of them.
        self._shared = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def load(self, index: int) -> tuple[int, Decoded]:
        """The number of the image that was loaded, `index` if possible, and the image.

        The same image takes the place of an unusable one whenever and in whichever process it is asked for.

        Raises:
            InputError: of the images seen so far so many are unusable that they are more than `max_failures` of all.
        """
        error: Exception | None = None
        for candidate in self._candidates(index):
            try:
                image = self.fitting.load(self.source, candidate, self.labels)
            except SourceError:
                raise
            except (InputError, OSError) as reason:
                error = reason.with_traceback(None)  # or the two would keep each other, and frames with loaders
                self._note(candidate, failure_of(reason), reason)
                continue
            self._note(candidate, image.issue)
            return candidate, image
        tried = min(LONGEST_ROW, len(self.source))
        raise InputError(f"{WHERE}: {tried} images in a row are unusable; the last one: {error}") from error

    def issues(self) -> dict[ImageIssue, int]:
        """How many images have been found to be what, in the processes of this loader."""
        counts = np.bincount(self._shared.numpy(), minlength=len(ImageIssue)).tolist()
        return {issue: counts[issue] for issue in ImageIssue if issue and counts[issue]}

    def _candidates(self, index: int) -> Iterator[int]:
        """`index`, then others that it alone decides: from anywhere, since broken files often lie side by side, but
        first from the same shard."""
        yield index
        rng, near, every = random.Random(index), self.source.near(index), range(len(self.source))
        drawn = rng.sample(near, min(TRIES_NEARBY, len(near))) + rng.sample(every, min(LONGEST_ROW, len(every)))
        yield from list(dict.fromkeys([index, *drawn]))[1:LONGEST_ROW]

    def _note(self, index: int, issue: ImageIssue, error: Exception | None = None) -> None:
        issues = self._shared.numpy()  # element by element far faster than the tensor
        if issues[index] != ImageIssue.UNSEEN:
            return
        issues[index] = issue
        if issue == ImageIssue.ORDINARY:
            return
        count = int((issues == issue).sum())
        if count <= NAMED:
            name = self.source.name(index)
            detail = f" ({reason_of(error, name)})" if error else ""
            LOGGER.warning("%s is %s%s", name, WORDS[issue], detail)
        if count == NAMED:
            LOGGER.warning("more of these are counted, but not named; bin/check_dataset.py lists all")
        if not issue.usable:
            self._stop_if_too_many(error)

    def _stop_if_too_many(self, error: Exception | None) -> None:
        found = self.issues()
        failures = sum(count for issue, count in found.items() if not issue.usable)
        seen = sum(found.values())
        expected = self.max_failures * seen
        # Of images drawn without replacement; nothing is left to chance when all are seen.
        deviation = math.sqrt(expected * (1 - seen / len(self.source)))
        allowed = max(expected + CHANCE * deviation, FEWEST_FAILURES if self.max_failures else 0)
        if failures > allowed:
            raise InputError(
                f"{WHERE}: {failures} of {seen} images seen are unusable, more than max_failures="
                f"{self.max_failures:g}; the last one: {error}. bin/check_dataset.py lists them; remove them or raise "
                f"{WHERE}.max_failures"
            ) from error
