"""Finding unusable image files before a long run fails on them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import cv2
from PIL import Image
from tqdm import tqdm

from saicinpainting.data.loading import WORDS, Fitting, ImageIssue, failure_of, reason_of
from saicinpainting.data.sources import ImageSource
from saicinpainting.io.files import map_in_processes
from saicinpainting.io.images import read_image
from saicinpainting.io.pixels import orientation_of, turned_note
from saicinpainting.utils import InputError

Size = tuple[int, int]
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
# What whole files end with; looked for at the very end, since some programs add a little of their own.
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
END_BYTES = 64
PNG_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG, some of which may come behind the pixels, that may say how it is turned."""
NOTES_BYTES = 1 << 16
HARMLESS = {"aspect", "chromaticity", "dpi", "gamma", "icc_profile", "interlace", "srgb", "transparency"}
NAMED = 10
CHUNK = 32
THREADS = 16
"""More than cores: on a network's disk most of the time is waiting."""


def verify_images(images: Iterable[str], masks: Iterable[str] | None = None, *, where: str) -> list[Size]:
    """The sizes (W, H) of the images, in their order; of ordinary files only the beginning and the end are read.

    Args:
        images: files; one may come several times.
        masks: as many, of each image; None where there are none.
        where: the config key of the set.

    Raises:
        InputError: it names, up to ten, the files that cannot be read and masks of other sizes than their images.
    """
    images = list(images)
    masks = list(masks or images)
    files = list(dict.fromkeys([*images, *masks]))
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(files, pool.map(_size_or_reason, files), strict=True))
    faults = [reason for reason in found.values() if isinstance(reason, str)]
    for image, mask in dict.fromkeys(zip(images, masks, strict=True)):
        size, other = found[image], found[mask]
        if not isinstance(size, str) and not isinstance(other, str) and size != other:
            sizes = f"{other[0]}x{other[1]} pixels, its image {size[0]}x{size[1]}"
            faults.append(f"{mask} is {sizes}{turned_note(image, mask)}")
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise InputError(
            f"{where}: {len(faults)} of {len(files)} files cannot be used, repair or remove them: "
            f"{'; '.join(faults[:NAMED])}{more}"
        )
    return [size for image in images if not isinstance(size := found[image], str)]


def _size_or_reason(path: str) -> Size | str:
    try:
        return upright_size(path)
    except InputError as error:
        return str(error)


def upright_size(path: str) -> Size:
    """Width and height that `read_image` gives, without decoding what is ordinary.

    Raises:
        InputError: it cannot be read, or is cut off.
    """
    return _plain_size(path) or read_image(path).size


def _plain_size(path: str) -> Size | None:
    """None of a file that has to be decoded to know."""
    try:
        with Image.open(path) as file:
            end = ENDS.get(file.format or "")
            if end is None or file.mode not in PLAIN_MODES or end not in _tail(path, END_BYTES):
                return None
            width, height = file.size
            if file.format == "JPEG":
                turned = orientation_of(file) >= 5
                return (height, width) if turned else (width, height)
            if file.info.keys() - HARMLESS:
                return None
            tail = _tail(path, NOTES_BYTES)
            return None if any(name in tail for name in PNG_NOTES) else (width, height)
    except Exception:  # decoding tells what is wrong
        return None


def _tail(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - size))
        return file.read()


# ---- training images ---------------------------------------------------------------------------------------------


class ImageReport(NamedTuple):
    """What was found out about one image; `reason`: why it cannot be used."""

    name: str
    width: int | None
    height: int | None
    issue: ImageIssue
    reason: str = ""

    def __str__(self) -> str:
        detail = f" ({self.reason})" if self.reason else ""
        return f"{self.name} is {WORDS[self.issue]}{detail}"


def report_images(source: ImageSource, fitting: Fitting, *, n_jobs: int = 1) -> Iterator[ImageReport]:
    """A report of every image, in the order of the source, with a progress bar; `n_jobs` processes read."""
    work, numbers = partial(_check_one, source=source, fitting=fitting), range(len(source))
    setup: dict[str, Any] = {"initializer": cv2.setNumThreads, "initargs": (0,)}
    reports = map_in_processes(work, numbers, n_jobs, name_of=source.name, chunksize=CHUNK, **setup)
    yield from tqdm(reports, total=len(source), unit="image")


def _check_one(index: int, *, source: ImageSource, fitting: Fitting) -> ImageReport:
    try:
        image = fitting.load(source, index, source.labels)
    except (InputError, OSError) as error:
        name = source.name(index)
        return ImageReport(name, None, None, failure_of(error), reason_of(error, name))
    height, width = image.pixels.shape[:2]
    return ImageReport(source.name(index), width, height, image.issue)
