"""Fills beside one another: a network's, OpenCV's two and the mean colour, measured in the hole and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from saicinpainting.io.images import from_pixels
from saicinpainting.losses.perceptual import StageFeatureLoss
from saicinpainting.metrics.ssim import ssim_map

RADIUS = 5
"""Of OpenCV's methods, in pixels."""
FORMATS = {"L1": ".4f", "PSNR": ".2f", "SSIM": ".3f", "lite2": ".3f"}

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Image uint8 (H, W, 3) and mask uint8 (H, W), hole where not 0, to the filled image."""


def white_hole(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The input as pictures show it: image (3, H, W) in [0, 1] with the hole, 1 in mask (1, H, W), in white."""
    return image * (1 - mask) + mask


def fill_with_mean_colour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    filled = image.copy()
    filled[mask > 0] = image[mask == 0].mean(axis=0).round()
    return filled


CLASSICAL: Mapping[str, Fill] = {
    "Telea": lambda image, mask: cv2.inpaint(image, mask, RADIUS, cv2.INPAINT_TELEA),
    "Navier-Stokes": lambda image, mask: cv2.inpaint(image, mask, RADIUS, cv2.INPAINT_NS),
    "mean colour": fill_with_mean_colour,
}


@torch.inference_mode()
def measure_fill(
    filled: np.ndarray, image: np.ndarray, mask: np.ndarray, judge: StageFeatureLoss | None = None
) -> dict[str, float]:
    """L1, PSNR and SSIM of the hole alone (of SSIM its map there), and the whole image's distance by `judge`.

    filled, image: uint8 (H, W, 3), measured in [0, 1]. mask: (H, W), hole where not 0.
    """
    pred, target = from_pixels(filled)[None], from_pixels(image)[None]
    hole = torch.from_numpy(mask > 0).expand(1, 3, -1, -1)
    difference = (pred - target).double()[hole]
    measured = {
        "L1": difference.abs().mean().item(),
        "PSNR": -10 * difference.square().mean().clamp(min=1e-10).log10().item(),
        "SSIM": ssim_map(pred.double(), target.double())[hole].mean().item(),
    }
    return measured if judge is None else {**measured, "lite2": judge.distances(pred, target).item()}


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A table with a row for each of `rows`, whose keys are the columns; metrics as `FORMATS` says."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(name, row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(name: str, value: object) -> str:
    return value if isinstance(value, str) else format(value, FORMATS.get(name, ""))


def contact_sheet(
    titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], *, cell: int, labels: Sequence[str] = ()
) -> np.ndarray:
    """Labelled images, uint8 (H, W, 3) each, as one.

    Args:
        titles: of the columns.
        rows: images, each shrunk or enlarged to fit a square of `cell` pixels.
        labels: of the rows; empty: none.
    """
    gap, line = 4, 18
    left = 90 if labels else 0
    sheet = Image.new("RGB", (left + cell * len(titles), line + cell * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((left + cell * column + 2, 3), title, fill="black")
    for i, row in enumerate(rows):
        if labels:
            draw.multiline_text((4, line + cell * i + 4), labels[i], fill="black")
        for column, pixels in enumerate(row):
            image = Image.fromarray(pixels)
            scale = (cell - gap) / max(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            sheet.paste(image.resize(size, Image.Resampling.LANCZOS), (left + cell * column, line + cell * i))
    return np.asarray(sheet)
