"""Masks: where a file or an array says hole, and warnings about masks that hardly can be meant so."""

from __future__ import annotations

import logging
import os

import cv2
import numpy as np

from saicinpainting.io.files import printable
from saicinpainting.io.pixels import FilePixels, decode_pixels, read_bytes
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
NEARLY_FULL = 0.95
"""Share of hole that leaves too little to fill it from."""
INVERTED, ALL_AROUND = 0.5, 0.75
"""Shares of hole, in the image and along its border, above which a mask looks like one of what is to stay."""
FAINT = 1 / 8
"""Part of the largest value below which a pixel may be noise."""
NOISY = 0.02
"""Share of faint pixels in the hole of a lossy file that makes it noisy."""
SPECKS = 10
"""Faint spots beside the hole that make any file noisy."""
WARNED = 20
"""Masks of a process that are warned of by name."""
_told: set[str] = set()


def read_hole(path: str | os.PathLike[str]) -> np.ndarray:
    """Where the mask file says hole, bool (H, W), upright; see `decode_hole`."""
    return decode_hole(read_bytes(path), os.fspath(path))


def decode_hole(data: bytes, name: str) -> np.ndarray:
    """Where a mask file's content says hole, bool (H, W), upright.

    Hole is wherever a colour channel is not 0 in the file's own numbers: soft edges and labels count, a palette stands
    for its colours. For alpha see `hole_of`. A mask that hardly can be meant so is warned of, once.

    Raises:
        InputError: it cannot be read, or may be meant in two ways.
    """
    pixels = decode_pixels(data, name)
    hole = hole_of(pixels.colours, pixels.alpha, name)
    warn_of_mask(name, odd_hole(hole) or _noise(pixels, hole))
    return hole


def hole_of(colours: np.ndarray, alpha: np.ndarray | None, name: str) -> np.ndarray:
    """bool (H, W): wherever a channel of `colours`, (H, W, C), is not 0.

    Where these make everything or nothing hole and alpha, (H, W), varies, alpha tells: what is opaque was drawn on
    transparency, if it is at most half of the image.

    Raises:
        InputError: alpha varies, but most is opaque: what was drawn may be the hole, or what was erased.
    """
    hole = (colours != 0).any(axis=2)
    if alpha is None or (alpha == alpha.flat[0]).all() or (hole.any() and not hole.all()):
        return hole
    opaque = alpha != 0
    if opaque.mean() > 0.5:
        raise InputError(
            f"the mask {name}: by its colours {'everything' if hole.all() else 'nothing'} is hole, and by its alpha "
            f"channel either the opaque part ({opaque.mean():.0%}) or the transparent part ({1 - opaque.mean():.0%}); "
            "save it without transparency, white where the hole is and black elsewhere"
        )
    return opaque


def odd_hole(hole: np.ndarray) -> str:
    """What is odd about the hole, bool (H, W); empty if nothing."""
    share = float(hole.mean())
    if share == 0:
        return "is empty: nothing is to be filled"
    if share >= NEARLY_FULL:
        return f"is hole in {share:.1%} of the image, which leaves little to fill it from"
    border = np.concatenate([hole[0], hole[-1], hole[:, 0], hole[:, -1]])
    if share > INVERTED and border.mean() > ALL_AROUND:
        return f"seems inverted: {share:.0%} of the image is hole, the border too; what is not 0 is hole"
    return ""


def _noise(pixels: FilePixels, hole: np.ndarray) -> str:
    values = pixels.colours.max(axis=2)
    if values.dtype.kind not in "iu":
        return ""
    top = int(values.max())
    faint = hole & (values < FAINT * top)
    if not faint.any():
        return ""
    share = faint.sum() / hole.sum()
    if not (pixels.lossy and share >= NOISY) and _specks(hole, faint) < SPECKS:
        return ""
    return (
        f"seems noisy: {share:.0%} of its hole is nearly black, as JPEG leaves it where black was; save masks as PNG, "
        "or set what is nearly black to 0"
    )


def _specks(hole: np.ndarray, faint: np.ndarray) -> int:
    """Connected parts of the hole that are faint all over."""
    count, labels = cv2.connectedComponents(hole.astype(np.uint8))
    return count - 1 - len(np.unique(labels[hole & ~faint]))


def warn_of_mask(name: str, oddity: str) -> None:
    """Warn of a mask once in a process, and by name of `WARNED` masks at most."""
    if not oddity or name in _told or len(_told) > WARNED:
        return
    _told.add(name)
    if len(_told) > WARNED:
        LOGGER.warning("more masks like these are not named")
    else:
        LOGGER.warning("the mask %s %s", printable(name), oddity)
