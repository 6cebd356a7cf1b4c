"""Pictures: pixels, tensors, files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from saicinpainting.files import write_whole
from saicinpainting.utils import InputError


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


def to_bytes(image: Tensor) -> Tensor:
    """[0, 1] to uint8, on the same device; rounded, so that a pixel that was read from 8 bits comes back the same."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_pixels(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3), see `to_bytes`."""
    return to_bytes(torch.as_tensor(image).cpu()).permute(1, 2, 0).contiguous().numpy()


def check_ending(ending: str) -> None:
    """An `InputError` for an ending such as `.png` that nothing here writes."""
    if not cv2.haveImageWriter(f"picture{ending}"):
        raise InputError(f"cannot write a picture with the ending {ending!r}; use .png")


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
    write_whole(path, encoded.tobytes())
