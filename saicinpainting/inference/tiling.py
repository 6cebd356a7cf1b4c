"""Tile large images: parts around the holes, with context."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saicinpainting.inference.stopping import check_stop

LOGGER = logging.getLogger(__name__)
MIN_CONTEXT = 128
"""Pixels around a hole that the network sees at least."""
RELATIVE_CONTEXT = 1.0
"""The same, in sides of the hole: the network was trained on holes of about a third of the image's side."""

SEAM = 16
"""Pixels behind the edge of a hole over which an enlarged filling goes over into what is around it."""


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom`, columns `left` to `right`, the last ones not included."""

    top: int
    left: int
    bottom: int
    right: int

    def meets(self, other: Box) -> bool:
        rows_meet = self.top < other.bottom and other.top < self.bottom
        return rows_meet and self.left < other.right and other.left < self.right

    def with_(self, other: Box) -> Box:
        top, left = min(self.top, other.top), min(self.left, other.left)
        return Box(top, left, max(self.bottom, other.bottom), max(self.right, other.right))


def boxes_around_holes(hole: np.ndarray) -> list[Box]:
    """Boxes with context that cover the hole, none of which meet; hole: (H, W) bool. Empty without a hole."""
    height, width = hole.shape
    number, _, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=8)
    boxes: list[Box] = []
    for left, top, w, h in stats[1:number, :4].tolist():
        context = max(MIN_CONTEXT, round(RELATIVE_CONTEXT * max(w, h)))
        bottom, right = min(top + h + context, height), min(left + w + context, width)
        box = Box(max(top - context, 0), max(left - context, 0), bottom, right)
        # Holes that see each other are filled together.
        while meeting := next((other for other in boxes if other.meets(box)), None):
            boxes.remove(meeting)
            box = box.with_(meeting)
        boxes.append(box)
    return sorted(boxes, key=lambda box: (box.top, box.left))


Paint = Callable[[Tensor, Tensor], Tensor]
"""A part (1, 3, h, w) with its hole (1, 1, h, w) to the image of it, which may be smaller."""


def fill_parts(image: Tensor, mask: Tensor, paint: Paint, *, match_colors: bool = False) -> Tensor:
    """`image`, (1, 3, H, W), filled part after part around its holes: what is filled is known to the next.

    Images that are smaller than their parts are enlarged, and go on from what is around the hole; those of the parts'
    size do so with `match_colors`.
    """
    filled, left = image.clone(), mask.clone()
    boxes = boxes_around_holes(mask[0, 0].cpu().numpy() > 0)
    LOGGER.info("%d parts around the holes of %d x %d pixels", len(boxes), image.shape[3], image.shape[2])
    for box in boxes:
        check_stop()
        part, hole = _cut(filled, box), _cut(left, box)
        painted = paint(part, hole).to(part)
        if painted.shape != part.shape:
            (h, w), (low, narrow) = part.shape[2:], painted.shape[2:]
            LOGGER.warning("a part of %d x %d pixels is too large; it is filled at %d x %d", w, h, narrow, low)
            painted = without_seam(resize_to_size(painted, h, w), part, hole)
        elif match_colors:
            painted = without_seam(painted, part, hole)
        part.copy_(torch.where(hole > 0, painted, part))
        hole.zero_()
    return filled


def _cut(x: Tensor, box: Box) -> Tensor:
    return x[:, :, box.top : box.bottom, box.left : box.right]


def resize_to_fit(image: Tensor, mask: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """(1, 3, H, W) and its mask, made smaller where they have more than `pixels`; a pixel with any hole is hole."""
    height, width = image.shape[2:]
    if height * width <= pixels:
        return image, mask
    scale = math.sqrt(pixels / (height * width))
    size = max(int(height * scale), 1), max(int(width * scale), 1)
    # What is in the hole must not reach the pixels around it.
    weight = F.interpolate(1 - mask, size, mode="area")
    known = F.interpolate(image * (1 - mask), size, mode="area")
    hole = (F.interpolate(mask, size, mode="area") > 0).to(mask)
    return known / weight.clamp(min=1e-6) * (1 - hole), hole


def resize_to_size(image: Tensor, height: int, width: int) -> Tensor:
    """(1, 3, h, w) enlarged."""
    return F.interpolate(image, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def without_seam(painted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """`painted`, (B, 3, H, W), changed near the edge of the hole to continue `image`.

    What a network paints on known pixels says how far off it is there. That difference, as a Gaussian average of the
    known pixels in reach, is taken off, in full at the edge and less and less behind it; mask: (B, 1, H, W), 1 = hole.
    """
    known = 1 - mask
    reach = _blurred(known)
    difference = _blurred((image - painted) * known) / reach.clamp(min=1e-6)
    # Half of what an edge pixel sees is known.
    continued = painted + difference * (2 * reach).clamp(max=1)
    # Clamping must not hide numbers that are not finite.
    return torch.where(painted.isfinite(), continued.clamp(0, 1), painted)


def _blurred(x: Tensor) -> Tensor:
    """A Gaussian blur of (B, C, H, W) that reaches `SEAM` pixels."""
    images = x.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    side = 2 * SEAM + 1
    blurred = [cv2.GaussianBlur(one, (side, side), SEAM / 3, borderType=cv2.BORDER_REFLECT_101) for one in images]
    return torch.from_numpy(np.stack(blurred).reshape(images.shape)).permute(0, 3, 1, 2).to(x)
