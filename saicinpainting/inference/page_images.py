"""The images of the page: photographs and masks as they are uploaded, previews to paint on, results to download."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from saicinpainting.io.budgets import BudgetError
from saicinpainting.io.extras import ImageExtras, read_extras
from saicinpainting.io.images import decode_image, load_planes, write_image
from saicinpainting.io.masks import decode_hole
from saicinpainting.io.pixels import decode_pixels, open_image
from saicinpainting.utils import InputError

PREVIEW_SIDE = 1600
"""Longest side, in pixels, of what the browser shows and paints on; phones refuse canvases of a whole photograph."""
KEPT_SECONDS = 3600
"""How long photographs and results stay on disk, for their links."""
GONE = "the photograph was kept for an hour and is gone; load it again"
PAINT = (225, 29, 72, 150)
"""RGBA of what is painted."""


@dataclass(frozen=True)
class Photograph:
    """What was uploaded: its file, the name it had, its size and its preview's, both (H, W), and a mask's file."""

    file: Path
    name: str
    size: tuple[int, int]
    preview: Path
    preview_size: tuple[int, int]
    mask: Path | None = None

    def read(self) -> tuple[np.ndarray, ImageExtras]:
        """Its pixels, float32 (3, H, W) in [0, 1], upright, and what results keep of it."""
        return load_planes(decode_pixels(_content(self.file), self.name), self.name), read_extras(self.file)

    def with_mask(self, file: Path, *, max_megapixels: float) -> Photograph:
        """With the hole of a mask's file; an `InputError` if it has another size."""
        check_header(file, file.name, max_megapixels=max_megapixels)
        hole = decode_hole(_content(file), file.name)
        if hole.shape != self.size:
            (height, width), (rows, columns) = self.size, hole.shape
            raise InputError(
                f"the mask {file.name} has {columns} x {rows} pixels, the photograph {width} x {height}; give it the "
                "photograph's size"
            )
        return replace(self, mask=file)

    def uploaded_hole(self) -> np.ndarray:
        """bool (H, W); of no mask: nothing."""
        if self.mask is None:
            return np.zeros(self.size, bool)
        return decode_hole(_content(self.mask), self.mask.name)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise InputError(GONE) from None


def check_header(file: Path, name: str, *, max_megapixels: float) -> None:
    """Check the size that a file says it has, before anything is decoded.

    Raises:
        InputError: it is no image, or a larger one.
    """
    try:
        with open_image(file) as image:
            width, height = image.size
    except FileNotFoundError:
        raise InputError(GONE) from None
    except (Image.DecompressionBombError, BudgetError) as error:
        raise InputError(f"{name} is too large: {error}") from error
    except Exception as error:  # decoders raise many kinds of errors on broken files
        raise InputError(f"cannot read {name}: it is no image") from error
    if width * height > max_megapixels * 1e6:
        raise InputError(
            f"{name} has {width * height / 1e6:.1f} megapixels, at most {max_megapixels:g} are taken here; "
            "bin/predict.py fills larger ones"
        )


def open_photograph(file: Path, folder: Path, *, max_megapixels: float) -> Photograph:
    """A photograph of any format and EXIF orientation; its preview is written into `folder`."""
    check_header(file, file.name, max_megapixels=max_megapixels)
    image = decode_image(_content(file), file.name)
    size, profile = (image.height, image.width), read_extras(file).profile
    preview = _write_preview(folder, image, profile)
    with Image.open(preview) as small:
        return Photograph(file, file.name, size, preview, (small.height, small.width))


def _write_preview(folder: Path, image: Image.Image, profile: bytes | None) -> Path:
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    path = folder / f"preview{time.time_ns()}.jpg"
    image.save(path, quality=92, icc_profile=profile)
    return path


# ---- what is hole --------------------------------------------------------------------------------------------------


def painted_layer(hole: np.ndarray, preview_size: tuple[int, int]) -> np.ndarray:
    """`hole`, bool (H, W), as a layer to paint on, uint8 (h, w, 4)."""
    layer = np.zeros((*preview_size, 4), np.uint8)
    layer[_small(hole, preview_size)] = PAINT
    return layer


def hole_of_drawing(
    drawing: Mapping[str, Any] | None, uploaded: np.ndarray, preview_size: tuple[int, int]
) -> np.ndarray:
    """bool (H, W): what was painted on the preview at the photograph's size, whatever its colour.

    Args:
        drawing: of gradio's editor, `layers` of RGBA.
        uploaded: bool (H, W), the mask's hole. Where its preview was neither painted over nor erased, it counts in
            every pixel.
        preview_size: (h, w) of what was painted on.

    Raises:
        InputError: nothing was painted, or at another size.
    """
    painted = np.zeros(preview_size, bool)
    for layer in (drawing or {}).get("layers") or []:
        if layer.shape[:2] == preview_size:
            painted |= layer[..., 3] > 0
        elif layer[..., 3].any():
            raise InputError("what was painted has another size than the photograph; load it again and paint anew")
    untouched = _large(painted == _small(uploaded, preview_size), uploaded.shape, cv2.INTER_NEAREST)
    hole = np.where(untouched, uploaded, _large(painted, uploaded.shape))
    if not hole.any():
        raise InputError("paint over what is to go, with the brush")
    return hole


def _small(hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (h, w): a pixel with any hole is hole."""
    return cv2.resize(hole.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0


def _large(small: np.ndarray, size: tuple[int, ...], interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """bool (H, W), without steps at its edges."""
    return cv2.resize(small.astype(np.float32), size[::-1], interpolation=interpolation) >= 0.5


# ---- results -------------------------------------------------------------------------------------------------------


def write_result(folder: Path, photograph: Photograph, filled: np.ndarray, extras: ImageExtras) -> tuple[Path, Path]:
    """The result as PNG and its preview, new files in `folder`, from which old ones go.

    filled: uint8 or uint16 (H, W, 3); extras: of the photograph.
    """
    for file in folder.rglob("*"):
        if file.is_file() and file != photograph.preview and time.time() - file.stat().st_mtime > KEPT_SECONDS:
            file.unlink()
    path = folder / str(time.time_ns()) / f"{Path(photograph.name).stem}_filled.png"
    write_image(path, filled, extras)
    shown = filled if filled.dtype == np.uint8 else np.round(filled / 257).astype(np.uint8)
    return path, _write_preview(folder, Image.fromarray(shown), extras.profile)
