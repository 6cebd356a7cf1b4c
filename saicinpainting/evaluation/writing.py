"""Writing pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from saicinpainting.utils import InputError


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 RGB picture (H, W, 3) and the folders above it; the ending picks the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise InputError(f"{path}: cannot write a picture with the ending {path.suffix!r}; use .png") from error
    if not written:  # OpenCV tells of a full disk or a read-only folder in no other way
        raise InputError(f"{path}: cannot be written; is there space, and is the folder writable?")
