"""The pixels of an image file as the file holds them: no value scaled, no channel lost, upright."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from saicinpainting.io.budgets import check_pixels, check_scans
from saicinpainting.utils import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "SUN")
"""Of Pillow's; some of the others start programs (EPS) or read other files."""
SLOWER = 10
"""Times that compressed BMP files take, which are decoded by Python."""
EXIF_ORIENTATION = 0x0112
PLANAR_CONFIGURATION = 284
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""Orientation: quarters to turn to the left, and whether to mirror left and right afterwards."""


@dataclass(frozen=True)
class FilePixels:
    """What an image file holds.

    Args:
        colours: (H, W, 1) grey or (H, W, 3) RGB in the file's numbers: uint8, uint16, int32, float. A palette's
            indices are its colours, CMYK is RGB, one bit is 0 or 255.
        alpha: (H, W) in the same numbers; None where there is none.
        lossy: whether the format is one that adds noise to flat colours.
    """

    colours: np.ndarray
    alpha: np.ndarray | None = None
    lossy: bool = False


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file; an `InputError` says why it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"cannot read the image {os.fspath(path)}: {reason}") from error


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """An image file, of which the header is read and nothing is decoded.

    Raises:
        UnidentifiedImageError: it is of no format that is read.
        BudgetError: it has too many pixels.
        OSError and others: it is damaged.
    """
    Image.init()  # all of its formats
    # Pillow's own limit is a warning first, which differs from ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    check_pixels(*image.size, sixteen_bits=is_deep(image))
    if any(tile[0] == "bmp_rle" for tile in image.tile):  # Pillow takes a tenth of a microsecond for each
        check_pixels(image.width, SLOWER * image.height)
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles may be larger than it is
    check_pixels(tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0))
    return image


def decode_pixels(data: bytes, name: str) -> FilePixels:
    """The pixels of a file's content; `name` is what errors call it.

    Raises:
        InputError: it is no image, or is damaged.
    """
    try:
        with open_image(io.BytesIO(data)) as file:
            if file.format in ("JPEG", "MPO"):
                check_scans(data, *file.size)
            return _decoded(file, data)
    # Decoders raise many kinds of errors on broken files; for the user all of them are one.
    except Exception as error:
        pixels = _float_tiff(data) if isinstance(error, UnidentifiedImageError) else None
        if pixels is not None:
            return FilePixels(*_split(pixels))
        reason: object = error
        if isinstance(error, UnidentifiedImageError):
            tiff = " that is read, but a TIFF of another kind; save it as PNG"
            reason = "it is no image" + (tiff if _is_tiff(data) else "")
        raise InputError(f"cannot read the image {name}: {reason}") from error


def _decoded(file: Image.Image, data: bytes) -> FilePixels:
    bits = tuple(_tiff_tag(file, TiffImagePlugin.BITSPERSAMPLE) or ())
    if _tiff_tag(file, PLANAR_CONFIGURATION) == 2 and 16 in bits:
        raise InputError("16 bits with its channels one after the other; save it with interleaved channels")
    deep = _by_opencv(data) if is_deep(file) and not file.mode.startswith("I") else None  # Pillow keeps 8 bits
    if deep is not None:
        # OpenCV has turned a TIFF already, and nothing else.
        colours, alpha = _split(deep if file.format == "TIFF" else _upright(deep, orientation_of(file)))
    else:
        white_is_zero = (
            file.mode.startswith("I;16") and _tiff_tag(file, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        )
        ImageOps.exif_transpose(file, in_place=True)
        colours, alpha = _split(np.asarray(_plain(file)))
        if white_is_zero:  # of 8 bits Pillow sees to it
            colours = np.iinfo(np.uint16).max - colours
    return FilePixels(colours, alpha, lossy=file.format in ("JPEG", "MPO", "WEBP"))


def is_deep(file: Image.Image) -> bool:
    """Whether a file that was opened holds 16 bits a channel; of colours the decoder's arguments say so."""
    return file.mode.startswith("I") or ";16" in repr(getattr(file, "tile", ""))


def _tiff_tag(file: Image.Image, tag: int) -> Any:
    return getattr(file, "tag_v2", {}).get(tag)


def _plain(image: Image.Image) -> Image.Image:
    """In a mode whose array holds grey, grey with alpha, RGB or RGBA."""
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA", "RGBa", "La"):
        return image.convert("LA" if image.mode == "La" else "RGBA" if transparent or image.mode != "P" else "RGB")
    if transparent and image.mode in ("1", "L", "RGB"):
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "LA", "RGB", "RGBA", "F") or image.mode[0] == "I" else image.convert("RGB")


def _float_tiff(data: bytes) -> np.ndarray | None:
    """Of a TIFF with colours that are floats, which Pillow does not know; None of anything else.

    Other TIFFs that only OpenCV reads lose bits, alpha or their colour space there.
    """
    if not _is_tiff(data):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        check_pixels(int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH]), sixteen_bits=True)
    except Exception:  # of damaged tags
        return None
    pixels = _by_opencv(data)
    return pixels if pixels is not None and pixels.dtype.kind == "f" else None


def _is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*")


def _by_opencv(data: bytes) -> np.ndarray | None:
    """(H, W) or (H, W, C) with RGB first; None if it cannot be read."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.ndim == 2:
        return pixels
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]


def pixels_of(image: Image.Image) -> FilePixels:
    """Of an image that is open, as it is turned in memory."""
    return FilePixels(*_split(np.asarray(_plain(image))))


def split_alpha(pixels: np.ndarray) -> FilePixels:
    """Of an array (H, W), (H, W, 1), with colours (H, W, 3), or these with alpha, (H, W, 2) or (H, W, 4).

    Raises:
        InputError: another shape.
    """
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise InputError(f"expected pixels (H, W) or (H, W, 1 to 4), got {pixels.shape}")
    return FilePixels(*_split(pixels))


def _split(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours and alpha."""
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[2] in (1, 3):
        return pixels, None
    return pixels[..., :-1], pixels[..., -1]


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As `ImageOps.exif_transpose` does it."""
    turns, mirrored = _TURNS.get(orientation, (0, False))
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def orientation_of(image: Image.Image) -> int:
    """EXIF's number, 1 for upright; broken metadata say nothing."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def turned_note(*paths: str | os.PathLike[str]) -> str:
    """For errors about sizes: which of the files are stored lying and turned by EXIF; empty if none is."""
    notes = []
    for path in paths:
        try:
            with Image.open(path) as file:
                orientation, (width, height) = orientation_of(file), file.size
        except OSError:
            continue
        if orientation != 1:
            notes.append(
                f"; {os.fspath(path)} is stored as {width}x{height} and turned by its EXIF orientation "
                f"({orientation}): save it upright, or turn the other one too"
            )
    return "".join(notes)
