"""The geometric part of the augmentation: perspective, affine map, lens distortion, padding, crop and flip as one warp.

Each step of the official pipeline would interpolate the whole image anew. Here the steps' coordinates are composed, so
that the crop is read from the photograph once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

Size = tuple[int, int]
Points = tuple[np.ndarray, np.ndarray]

LATTICE = 8
"""Spacing in pixels of the lattice on which smooth warps are computed; between its nodes they are linear to 0.01 px."""
FOUR_BYTES_PIXELS = 2 * 10**6
"""Larger pictures would take longer to get a fourth byte a pixel than their warp saves by it."""


@dataclass(frozen=True)
class GeometricVariant:
    """Ranges that a geometry is drawn from; what is None or False is left out, each step has probability .5.

    perspective: largest standard deviation of the corners' jitter, as a share of the side.
    scale: range of the affine scale, drawn for x and y independently; rotate, shear: ± degrees.
    affine_p: probability of the affine step.
    rescale: isotropic rescale by 1 ± this.
    optical: lens distortion with k1 = k2 in ±.05. The official shift of ±.05 is in pixels and rounded to whole ones,
        so it is none.
    """

    perspective: float | None = None
    scale: tuple[float, float] | None = None
    rotate: float = 40
    shear: float = 0.1
    affine_p: float = 0.5
    rescale: float | None = None
    optical: bool = False

    def draw(self, source: Size, out_size: int, rng: random.Random) -> Geometry:
        """A geometry for an image of size `source` (H, W)."""
        rescale = 1 + rng.uniform(-self.rescale, self.rescale) if self.rescale and _coin(rng) else 1.0
        height, width = (max(1, round(side * rescale)) for side in source)
        perspective = affine = None
        if self.perspective is not None and _coin(rng):
            perspective = draw_perspective((height, width), rng.uniform(0, self.perspective), rng)
        if self.scale is not None and _coin(rng, self.affine_p):
            affine = inverse_affine(
                (height, width),
                scale=(rng.uniform(*self.scale), rng.uniform(*self.scale)),
                rotate=rng.uniform(-self.rotate, self.rotate),
                shear=(rng.uniform(-self.shear, self.shear), rng.uniform(-self.shear, self.shear)),
            )
        optical = rng.uniform(-0.05, 0.05) if self.optical and _coin(rng) else 0.0
        return Geometry(
            source=source,
            frame=(height, width),
            perspective=perspective,
            affine=affine,
            optical=optical,
            top=rng.randint(0, max(height - out_size, 0)),
            left=rng.randint(0, max(width - out_size, 0)),
            flip=_coin(rng),
            out_size=out_size,
        )


def _coin(rng: random.Random, probability: float = 0.5) -> bool:
    return rng.random() < probability


def draw_perspective(size: Size, sigma: float, rng: random.Random) -> np.ndarray:
    """(3, 3): where the pixels of a frame of `size` come from, if its corners show what was inside of them by
    |N(0, sigma)| of the side."""
    height, width = size
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    shown = []
    for x, y in corners:
        inwards_x, inwards_y = width * (abs(rng.gauss(0, sigma)) % 0.32), height * (abs(rng.gauss(0, sigma)) % 0.32)
        shown.append((x - inwards_x if x else inwards_x, y - inwards_y if y else inwards_y))
    return cv2.getPerspectiveTransform(np.array(corners, np.float32), np.array(shown, np.float32))


def inverse_affine(size: Size, *, scale: tuple[float, float], rotate: float, shear: tuple[float, float]) -> np.ndarray:
    """(3, 3): where pixels come from, if the picture is scaled, rotated, then sheared about its centre; degrees."""
    height, width = size
    sine, cosine = math.sin(math.radians(rotate)), math.cos(math.radians(rotate))
    slant_x, slant_y = math.tan(math.radians(shear[0])), math.tan(math.radians(shear[1]))
    # The forward map: [[1, slant_x], [slant_y, 1]] @ [[cosine, sine], [-sine, cosine]] @ diag(scale)
    a, b = (cosine - slant_x * sine) * scale[0], (sine + slant_x * cosine) * scale[1]
    c, d = (slant_y * cosine - sine) * scale[0], (slant_y * sine + cosine) * scale[1]
    area = a * d - b * c
    a, b, c, d = d / area, -b / area, -c / area, a / area
    centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
    shift_x, shift_y = centre_x - a * centre_x - b * centre_y, centre_y - c * centre_x - d * centre_y
    return np.array([[a, b, shift_x], [c, d, shift_y], [0, 0, 1]])


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a crop come from.

    source, frame: (H, W) of the image, and of it after the rescale.
    perspective, affine: (3, 3), where the pixels of the frame come from, first in `affine`; None: left out.
    optical: k1 = k2 of the lens distortion; 0: none.
    top, left: of the crop in the frame, which is padded to `out_size` where it is smaller.
    """

    source: Size
    frame: Size
    perspective: np.ndarray | None
    affine: np.ndarray | None
    optical: float
    top: int
    left: int
    flip: bool
    out_size: int

    def warp(self, image: np.ndarray) -> np.ndarray:
        """uint8 or uint16 (H, W, C) -> (out_size, out_size, C), linearly interpolated; beyond its borders it mirrors.

        To three channels OpenCV wants a fourth, whatever it holds, for it reads a pixel at once then.
        """
        if self._copies:
            return self._cut(image)
        if image.shape[2] == 3 and image.shape[0] * image.shape[1] <= FOUR_BYTES_PIXELS:
            return to_rgb(self._moved(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)))
        return self._moved(image)

    def _moved(self, image: np.ndarray) -> np.ndarray:
        moved = cv2.remap(image, *self._origins, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return moved.reshape(self.out_size, self.out_size, -1)  # OpenCV drops a single channel

    def warp_labels(self, labels: np.ndarray) -> np.ndarray:
        """A mask or a map of classes (H, W), any dtype of OpenCV -> (out_size, out_size), nearest neighbour."""
        if self._copies:
            return self._cut(labels)
        return cv2.remap(labels, *self._origins, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    @property
    def _copies(self) -> bool:
        """Whether pixels are taken as they are."""
        moved = self.perspective is not None or self.affine is not None or self.optical != 0
        return not moved and self.frame == self.source and min(self.frame) >= self.out_size

    def _cut(self, image: np.ndarray) -> np.ndarray:
        crop = image[self.top : self.top + self.out_size, self.left : self.left + self.out_size]
        return np.ascontiguousarray(crop[:, ::-1] if self.flip else crop)

    @cached_property
    def _origins(self) -> Points:
        """x and y in the source of every pixel of the crop, float32 (out_size, out_size)."""
        nodes = np.arange(-LATTICE, self.out_size + LATTICE, LATTICE, dtype=np.float32) + (LATTICE - 1) / 2
        smooth = self._trace(nodes, folding=False)
        if smooth is not None:
            own = slice(LATTICE, LATTICE + self.out_size)
            size = (len(nodes) * LATTICE,) * 2
            x, y = (cv2.resize(axis, size, interpolation=cv2.INTER_LINEAR)[own, own] for axis in smooth)
            return x, y
        every = self._trace(np.arange(self.out_size, dtype=np.float32), folding=True)
        assert every is not None
        return every

    def _trace(self, positions: np.ndarray, *, folding: bool) -> Points | None:
        """Origins of the crop's pixels at `positions`, in x as in y: their x and y, float32 (n, n).

        Each step sees a picture that ends at its frame and mirrors beyond it. Where that matters the coordinates are
        folded back after the step; None without `folding`, because they are not smooth then.
        """
        padded = (max(self.frame[0], self.out_size), max(self.frame[1], self.out_size))
        columns = self.out_size - 1 - positions if self.flip else positions
        x, y = (columns + self.left)[None], (positions + self.top)[:, None]
        for step, size in self._steps(padded):
            x, y = step(x, y)
            if size is None:  # the warp itself mirrors at the borders of the source
                break
            if _inside(x, size[1]) and _inside(y, size[0]):
                continue
            if not folding:
                return None
            x, y = _fold(x, size[1]), _fold(y, size[0])
        x, y = (np.ascontiguousarray(axis) for axis in np.broadcast_arrays(x, y))
        return x, y

    def _steps(self, padded: Size) -> list[tuple[Callable[[np.ndarray, np.ndarray], Points], Size | None]]:
        """From the padded frame back to the source, each with the size of the picture that it leads into."""
        steps: list[tuple[Callable[[np.ndarray, np.ndarray], Points], Size | None]] = []
        if self.optical:
            steps.append((lambda x, y: _distort(x, y, padded, self.optical), padded))
        if padded != self.frame:
            # The larger half of an odd padding comes after.
            left, top = ((padded[axis] - self.frame[axis]) // 2 for axis in (1, 0))
            steps.append((lambda x, y: (x - left, y - top), self.frame))
        for matrix in (self.affine, self.perspective):
            if matrix is not None:
                steps.append((_mapping(matrix), self.frame))
        if self.frame != self.source:
            steps.append((_mapping(_resize_matrix(self.frame, self.source)), self.source))
        if steps:
            steps[-1] = (steps[-1][0], None)
        return steps


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) -> (H, W, 3), without the fourth channel."""
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB) if image.shape[2] == 4 else image


def _resize_matrix(frame: Size, source: Size) -> np.ndarray:
    """Pixels of the resized picture -> pixels of the source; centres of pixels lie at whole numbers."""
    y, x = source[0] / frame[0], source[1] / frame[1]
    return np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])


def _mapping(matrix: np.ndarray) -> Callable[[np.ndarray, np.ndarray], Points]:
    """The map of points by a homography."""
    (a, b, c), (d, e, f), (g, h, i) = (matrix / matrix[2, 2]).tolist()

    def apply(x: np.ndarray, y: np.ndarray) -> Points:
        u, v = (a * x + c) + b * y, (d * x + f) + e * y
        if g == 0 and h == 0:
            return u, v
        w = (g * x + i) + h * y
        return u / w, v / w

    return apply


def _distort(x: np.ndarray, y: np.ndarray, size: Size, k: float) -> Points:
    """OpenCV's lens model with k1 = k2 = `k`, no tangential terms, and the sides as focal lengths."""
    height, width = size
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x, y = x - centre_x, y - centre_y
    square = (x / width) ** 2 + (y / height) ** 2
    stretch = (square + 1) * square * k + 1
    return x * stretch + centre_x, y * stretch + centre_y


def _inside(values: np.ndarray, length: int) -> bool:
    return bool(values.min() >= 0 and values.max() <= length - 1)


def _fold(values: np.ndarray, length: int) -> np.ndarray:
    """Mirror into 0..length - 1 as cv2.BORDER_REFLECT_101 does, any number of times."""
    last = max(length - 1, 1)
    values = np.abs(values)
    if values.max() > 2 * last:
        values = values - np.floor(values / (2 * last)) * (2 * last)
    return last - np.abs(last - values) if length > 1 else np.zeros_like(values)
