"""Writing pictures."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from saicinpainting.utils import InputError


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 RGB picture (H, W, 3) and the folders above it; the ending picks the format.

    The file appears when it is whole.
    """
    path = Path(path)
    # OpenCV encodes only: on Windows it cannot open names beyond the system's code page.
    try:
        written, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise InputError(f"{path}: cannot write a picture with the ending {path.suffix!r}; use .png") from error
    if not written:
        raise InputError(f"{path}: a picture of shape {picture.shape} does not fit the format; use .png")
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(encoded.tobytes())
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); is there space, is the folder writable?") from error
