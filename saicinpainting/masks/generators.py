"""Random hole masks, one class a kind: strokes, boxes, super-resolution grid, outpainting bands, plain square.

Each generator draws its numbers in the order of the official code, so that a seed gives the official mask.
"""

from __future__ import annotations

import math
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, ClassVar

import cv2
import numpy as np

from saicinpainting.utils import InputError, get_ramp

Size = tuple[int, int]


@dataclass(frozen=True)
class MaskRandom:
    """The two random sources of masks: most draws come from NumPy's, a few from Python's."""

    numpy: np.random.RandomState | ModuleType
    python: random.Random | ModuleType

    @classmethod
    def seeded(cls, seed: int) -> MaskRandom:
        return cls(numpy=np.random.RandomState(seed), python=random.Random(seed))

    def reseed(self, seed: int) -> MaskRandom:
        """Itself, begun anew: the draws of `seeded(seed)` without the cost of new sources, which is that of a mask."""
        self.numpy.seed(seed)
        self.python.seed(seed)
        return self


GLOBAL_RANDOM = MaskRandom(numpy=np.random, python=random)
"""What `np.random.seed` and `random.seed` control."""


class MaskGenerator(ABC):
    """Draws a mask for an image; subclasses say how in `sample`."""

    def __call__(
        self, img: Any, iter_i: int | None = None, raw_image: Any = None, *, rng: MaskRandom | None = None
    ) -> np.ndarray:
        """`img`: array or tensor (C, H, W), only its size counts -> float32 (1, H, W), 1 = hole.

        `iter_i` moves the ramps of generators that have one, `raw_image` is for outpainting with fixed
        randomness, and `rng` is `GLOBAL_RANDOM` unless given.
        """
        height, width = img.shape[-2:]
        return self.sample((height, width), rng or GLOBAL_RANDOM, iter_i, raw_image)[None]

    @abstractmethod
    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        """A mask of `size` (H, W): float32, 0 or 1."""


@dataclass(kw_only=True)
class _RampedMaskGenerator(MaskGenerator):
    """Draws `min_times` to about `max_times` shapes; a ramp moves from the least difficulty to the full one."""

    min_times: int = 0
    max_times: int
    ramp_kwargs: Mapping[str, Any] | None = None
    _name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.min_times > self.max_times:
            raise InputError(
                f"{self._name} masks: expected min_times <= max_times, got {self.min_times} and {self.max_times}"
            )
        # Old configs give a linear ramp's settings and no kind.
        self._ramp = None if self.ramp_kwargs is None else get_ramp(**{"kind": "linear", **self.ramp_kwargs})

    def share(self, iter_i: int | None) -> float:
        """Share of the full difficulty: 1 without a ramp."""
        return 1 if self._ramp is None or iter_i is None else self._ramp(iter_i)


class DrawMethod(str, Enum):
    """What a stroke's segment is drawn as."""

    LINE = "line"
    CIRCLE = "circle"
    SQUARE = "square"


@dataclass(kw_only=True)
class RandomIrregularMaskGenerator(_RampedMaskGenerator):
    """Strokes: chains of up to five thick segments from random starts."""

    max_angle: int = 4
    max_len: int = 60
    max_width: int = 20
    max_times: int = 10
    draw_method: str | DrawMethod = DrawMethod.LINE
    _name = "irregular"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draw_method not in list(DrawMethod):
            known = ", ".join(method.value for method in DrawMethod)
            raise InputError(f"draw_method: unknown {self.draw_method!r}; known: {known}")

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        share = self.share(iter_i)
        max_len, max_width = int(max(1, self.max_len * share)), int(max(1, self.max_width * share))
        # One stroke more than max_times can come; published models were trained and tested with that.
        max_times = int(self.min_times + 1 + (self.max_times - self.min_times) * share)

        mask = np.zeros(size, np.uint8)  # OpenCV draws bytes four times as fast as floats
        for i in range(rng.numpy.randint(self.min_times, max_times + 1)):
            self._draw_stroke(mask, rng, turned=i % 2 == 0, max_len=max_len, max_width=max_width)
        return mask.astype(np.float32)

    def _draw_stroke(self, mask: np.ndarray, rng: MaskRandom, *, turned: bool, max_len: int, max_width: int) -> None:
        height, width = mask.shape
        randint = rng.numpy.randint
        x, y = randint(width), randint(height)
        for _ in range(1 + randint(5)):
            angle = 0.01 + randint(self.max_angle)
            if turned:
                angle = 2 * 3.1415926 - angle  # these digits: masks stay equal to the official ones
            length, brush = 10 + randint(max_len), 5 + randint(max_width)
            end_x = min(max(int(x + length * math.sin(angle)), 0), width)
            end_y = min(max(int(y + length * math.cos(angle)), 0), height)
            self._draw_segment(mask, (x, y), (end_x, end_y), brush)
            x, y = end_x, end_y

    def _draw_segment(self, mask: np.ndarray, start: tuple[int, int], end: tuple[int, int], brush: int) -> None:
        if self.draw_method == DrawMethod.LINE:
            cv2.line(mask, start, end, 1, brush)
        elif self.draw_method == DrawMethod.CIRCLE:
            cv2.circle(mask, start, radius=brush, color=1, thickness=-1)
        else:
            x, y, half = *start, brush // 2
            # No max(0, ...): a square over the upper or left border stays undrawn in the official code too.
            mask[y - half : y + half, x - half : x + half] = 1


@dataclass(kw_only=True)
class RandomRectangleMaskGenerator(_RampedMaskGenerator):
    """Boxes at least `margin` away from the border."""

    margin: int = 10
    bbox_min_size: int = 30
    bbox_max_size: int = 100
    max_times: int = 3
    _name = "box"

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        share = self.share(iter_i)
        height, width = size
        largest = int(self.bbox_min_size + 1 + (self.bbox_max_size - self.bbox_min_size) * share)
        largest = min(largest, height - 2 * self.margin, width - 2 * self.margin)
        if largest <= self.bbox_min_size:
            raise InputError(
                f"box masks: an image of {height}x{width} with margin {self.margin} has no room for boxes of "
                f"{self.bbox_min_size} px; lower bbox_min_size or margin in box_kwargs, or use larger images"
            )
        max_times = int(self.min_times + (self.max_times - self.min_times) * share)

        mask = np.zeros(size, np.float32)
        randint = rng.numpy.randint
        for _ in range(randint(self.min_times, max_times + 1)):
            box_width, box_height = (randint(self.bbox_min_size, largest) for _ in range(2))
            x = randint(self.margin, width - self.margin - box_width + 1)
            y = randint(self.margin, height - self.margin - box_height + 1)
            mask[y : y + box_height, x : x + box_width] = 1
        return mask


@dataclass(kw_only=True)
class RandomSuperresMaskGenerator(MaskGenerator):
    """A grid of holes: known pixels remain between periodic missing rows and columns."""

    min_step: int = 2
    max_step: int = 4
    min_width: int = 1
    max_width: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.min_width < self.min_step:
            raise InputError(
                f"superres_kwargs: min_width must lie in 1..min_step - 1, got {self.min_width} and min_step "
                f"{self.min_step}"
            )

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        mask = np.zeros(size, np.float32)
        randint = rng.numpy.randint
        for lines in (mask.T, mask):  # columns, then rows
            step = randint(self.min_step, self.max_step + 1)
            width, offset = randint(self.min_width, min(step, self.max_width + 1)), randint(0, step)
            for i in range(width):
                lines[offset + i :: step] = 1
        return mask


@dataclass(kw_only=True)
class OutpaintingMaskGenerator(MaskGenerator):
    """Bands along some of the four borders.

    `is_fixed_randomness`: equal `raw_image`s get equal masks, whatever was drawn before.
    """

    min_padding_percent: float = 0.04
    max_padding_percent: float = 0.25
    left_padding_prob: float = 0.5
    top_padding_prob: float = 0.5
    right_padding_prob: float = 0.5
    bottom_padding_prob: float = 0.5
    is_fixed_randomness: bool = False

    def __post_init__(self) -> None:
        least, most = self.min_padding_percent, self.max_padding_percent
        if not (0 <= least <= most <= 1 and most > 0):
            raise InputError(
                "outpainting masks: expected 0 <= min_padding_percent <= max_padding_percent <= 1 and a maximum "
                f"above 0, got {least} and {most}"
            )
        self.probs = [self.left_padding_prob, self.top_padding_prob, self.right_padding_prob, self.bottom_padding_prob]
        if not (all(0 <= p <= 1 for p in self.probs) and sum(self.probs) > 0):
            raise InputError(
                "outpainting masks: left, top, right and bottom_padding_prob must lie in 0..1 and one of them "
                f"above 0, got {self.probs}"
            )

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        if self.is_fixed_randomness:
            rng = _random_of_image(raw_image)
        height, width = size
        # The axes of the first argument are swapped in the official code; masks drawn from a seed depend on it.
        left, top, right, bottom = (self._draw_share(axis, rng) for axis in (height, width, height, width))
        bands: list[tuple[slice, ...]] = [
            np.s_[:, : int(left * width)],
            np.s_[: int(top * height), :],
            np.s_[:, int((1 - right) * width) :],
            np.s_[int((1 - bottom) * height) :, :],
        ]
        chosen = [i for i, prob in enumerate(self.probs) if rng.numpy.random_sample() < prob]
        if not chosen:
            chosen = [rng.numpy.choice(4, p=np.array(self.probs) / sum(self.probs))]

        mask = np.zeros(size, np.float32)
        for i in chosen:
            mask[bands[i]] = 1
        return mask

    def _draw_share(self, axis: int, rng: MaskRandom) -> float:
        low, high = int(self.min_padding_percent * axis), int(self.max_padding_percent * axis)
        return (rng.numpy.randint(low, high) if low < high else low) / axis


def _random_of_image(raw_image: Any) -> MaskRandom:
    if raw_image is None:
        raise InputError(
            "outpainting masks: is_fixed_randomness needs the image, which only evaluation data sets pass; "
            "set is_fixed_randomness: false for training"
        )
    return MaskRandom.seeded(zlib.crc32(np.ascontiguousarray(raw_image).tobytes()))


class DumbAreaMaskGenerator(MaskGenerator):
    """One rectangle: 10-35 % of the area anywhere for training, a centred 22.5 % for evaluation."""

    min_ratio, max_ratio, default_ratio = 0.1, 0.35, 0.225

    def __init__(self, is_training: bool) -> None:
        self.is_training = is_training

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        height, width = size
        span = self._draw_span if self.is_training else self._central_span
        columns, rows = span(width, rng), span(height, rng)
        mask = np.zeros(size, np.float32)
        mask[rows, columns] = 1
        return mask

    def _draw_span(self, axis: int, rng: MaskRandom) -> slice:
        low, high = math.sqrt(self.min_ratio), math.sqrt(self.max_ratio)
        side = round((rng.python.random() * (high - low) + low) * axis)
        start = rng.python.randint(0, axis - side - 1)
        return slice(start, start + side)

    def _central_span(self, axis: int, rng: MaskRandom) -> slice:
        half = math.sqrt(self.default_ratio) / 2 * axis
        return slice(round(axis / 2 - half), round(axis / 2 + half))
