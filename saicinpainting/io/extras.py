"""What an image file holds besides 8-bit colours, and writing it into results: depth, profile, resolution, alpha."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from saicinpainting.io.pixels import decode_pixels, is_deep, open_image, read_bytes

TRANSPARENT = (".png", ".webp", ".tif", ".tiff")
DEEP = (".png", ".tif", ".tiff")
"""Endings of formats that hold alpha, and 16 bits a channel."""
WITH_PILLOW: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95},
    ".jpeg": {"quality": 95},
    ".webp": {"lossless": True, "exact": True},  # or colours that alpha hides would be lost
    ".tif": {"compression": "tiff_lzw"},
    ".tiff": {"compression": "tiff_lzw"},
}
"""Endings of formats that hold a profile, with options that compress as OpenCV does unless told otherwise."""


@dataclass(frozen=True)
class ImageExtras:
    """What results keep of their image.

    Args:
        deep: 16 bits a channel.
        alpha: (H, W), of the image's depth; None where there is none.
        profile: the ICC colour profile; one of RGB, or with `grey` one of grey.
        grey: write the result grey, for the profile is.
        dpi: pixels an inch, across and down.
    """

    deep: bool = False
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    grey: bool = False
    dpi: tuple[float, float] | None = None

    def within(self, ending: str) -> ImageExtras:
        """What a format can hold of it."""
        kept = self if ending in TRANSPARENT else replace(self, alpha=None)
        return replace(kept, grey=False, profile=None) if self.grey and ending == ".webp" else kept

    def fit(self, pixels: np.ndarray, ending: str) -> np.ndarray:
        """uint8 or uint16 (H, W, 1 to 4) with this alpha, or grey, or in 8 bits where the format has no more.

        Alpha is left out where the format has none. Grey with alpha becomes RGB with alpha where only that is written.
        """
        if self.grey and pixels.shape[2] == 3:
            pixels = np.rint(pixels.mean(axis=2, keepdims=True)).astype(pixels.dtype)
        if self.alpha is not None:
            alpha, (height, width) = self.alpha, pixels.shape[:2]
            if alpha.shape != (height, width):
                alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)
            pixels = np.dstack([pixels, alpha.astype(pixels.dtype)])
        if pixels.dtype == np.uint16 and ending not in DEEP:
            pixels = np.round(pixels / 257).astype(np.uint8)
        if pixels.shape[2] in (2, 4) and ending not in TRANSPARENT:
            pixels = pixels[..., :-1]
        if pixels.shape[2] == 1 and ending == ".webp":  # which knows colours only
            pixels = pixels.repeat(3, axis=2)
        if pixels.shape[2] == 2 and (pixels.dtype == np.uint16 if ending == ".png" else self.alpha is None):
            pixels = pixels[..., [0, 0, 0, 1]]
        return pixels


def read_extras(path: str | os.PathLike[str]) -> ImageExtras:
    """Of an image file; only one with alpha is decoded.

    Raises:
        InputError: it is no image, or is damaged.
    """
    try:
        opened = open_image(path)
    except Exception:  # of many kinds; a TIFF may be read all the same
        decode_pixels(read_bytes(path), os.fspath(path))
        return ImageExtras()
    with opened as file:
        transparent = file.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in file.info
        grey = file.mode in ("1", "L", "LA", "La") or file.mode.startswith("I")
        deep = is_deep(file)
        profile, dpi = file.info.get("icc_profile"), file.info.get("dpi")
    space = profile[16:20] if profile else b""
    alpha = decode_pixels(read_bytes(path), os.fspath(path)).alpha if transparent else None
    across = None if dpi is None else (float(dpi[0]), float(dpi[1]))
    return ImageExtras(
        deep,
        alpha,
        profile if space == (b"GRAY" if grey else b"RGB ") or space == b"RGB " else None,
        grey and space == b"GRAY",
        across if across and all(math.isfinite(one) and one > 0 for one in across) else None,
    )


def add_to_png(encoded: bytes, extras: ImageExtras) -> bytes:
    """A PNG with the profile and the resolution."""
    chunks = b""
    if extras.profile is not None:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(extras.profile))
    if extras.dpi is not None:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in extras.dpi), 1))
    header = 8 + 25  # the signature and the chunk IHDR, behind which they belong
    return encoded[:header] + chunks + encoded[header:]


def grey_png(pixels: np.ndarray) -> bytes:
    """Grey with alpha, uint8 (H, W, 2), which OpenCV does not write."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode_by_pillow(pixels: np.ndarray, ending: str, extras: ImageExtras) -> bytes:
    """A file of an ending of `WITH_PILLOW` with the profile and the resolution; pixels: of `ImageExtras.fit`."""
    if pixels.dtype == np.uint16:
        return _deep_tiff(pixels, extras)
    about = {"icc_profile": extras.profile, "dpi": extras.dpi}
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file,
        Image.registered_extensions()[ending],
        **WITH_PILLOW[ending],
        **{name: value for name, value in about.items() if value is not None},
    )
    return file.getvalue()


def _deep_tiff(pixels: np.ndarray, extras: ImageExtras) -> bytes:
    """uint16 (H, W, C) as an uncompressed TIFF, which Pillow does not write and OpenCV not with a profile."""
    height, width, channels = pixels.shape
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[258] = width, height, (16,) * channels
    tags[259], tags[262], tags[277] = 1, 2 if channels > 2 else 1, channels
    tags[273], tags[278], tags[279] = 0, height, pixels.nbytes  # one strip; where it begins, `save` fills in
    if channels == 4:
        tags[338] = 2  # alpha, not multiplied in
    if extras.dpi is not None:
        tags[282], tags[283], tags[296] = *extras.dpi, 2
    if extras.profile is not None:
        tags.tagtype[34675] = 7
        tags[34675] = extras.profile
    file = io.BytesIO()
    file.seek(tags.save(file))
    file.write(pixels.astype("<u2").tobytes())
    return file.getvalue()
