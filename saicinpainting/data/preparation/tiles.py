"""Square tiles cut from photographs at many scales, for training on a few large photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

BLOCK = 16  # pixels; the activity of a tile is measured in blocks of this size


@dataclass(frozen=True)
class Cutting:
    """How photographs become tiles.

    Args:
        size: side of a tile in pixels.
        sides: the shorter side of the smallest and of the largest scale in pixels. A photograph is never enlarged.
        factor: from a scale to the next larger one.
        per_photograph: at most this many tiles of one photograph, so that large ones do not dominate.
        dull: tiles whose activity is below this, in 8-bit values, are nearly flat: skies, and what is out of focus.
        dull_share: at most this share of the tiles of a scale is dull.
    """

    size: int = 320
    sides: tuple[int, int] = (320, 1100)
    factor: float = 1.25
    per_photograph: int = 120
    dull: float = 5.0
    dull_share: float = 0.15


@dataclass(frozen=True)
class Tile:
    """A square of a resized photograph; `left` and `top` are in pixels of that scale, `side` is its shorter side."""

    image: Image.Image
    side: int
    left: int
    top: int


def cut_tiles(photograph: Image.Image, cutting: Cutting, rng: np.random.Generator) -> list[Tile]:
    """Tiles of one photograph (RGB), spread over its scales and, in each of them, over the photograph.

    The tiles of a scale lie on a grid, moved at random within the room that is left. Their number is shared out among
    the scales as evenly as the grids allow.
    """
    sides = scale_sides(photograph.size, cutting)
    grids = [
        _grid(_size_at(photograph.size, side), cutting, cutting.per_photograph / len(sides), rng) for side in sides
    ]
    tiles: list[Tile] = []
    for side, places, count in zip(sides, grids, share_out(cutting.per_photograph, [*map(len, grids)]), strict=True):
        scaled = photograph.resize(_size_at(photograph.size, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        rng.shuffle(places)
        tiles += _choose(scaled, side, places, count, cutting)
    return tiles


def scale_sides(size: tuple[int, int], cutting: Cutting) -> list[int]:
    """Shorter sides of the scales of a photograph of `size`; empty where it is smaller than a tile."""
    largest = min(*size, cutting.sides[1])
    sides = [cutting.sides[0]] if largest >= cutting.sides[0] else []
    while sides and round(sides[-1] * cutting.factor) <= largest:
        sides.append(round(sides[-1] * cutting.factor))
    return sides


def share_out(total: int, room: list[int]) -> list[int]:
    """`total` shared as evenly as `room`, the most that each may get, allows."""
    shares = [0] * len(room)
    for i, index in enumerate(sorted(range(len(room)), key=room.__getitem__)):
        shares[index] = min(room[index], (total - sum(shares)) // (len(room) - i))
    return shares


def activity(image: Image.Image) -> float:
    """Mean standard deviation of the grey values in blocks of 16 px: 0 for a flat image, about 20 for foliage."""
    grey = np.asarray(image.convert("L"), np.float32)
    height, width = (side // BLOCK * BLOCK for side in grey.shape)
    blocks = grey[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return float(blocks.std(axis=(1, 3)).mean())


def _size_at(size: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = (round(length * side / min(size)) for length in size)
    return width, height


def _grid(size: tuple[int, int], cutting: Cutting, wanted: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Left and top of every tile of a scale: half a tile apart, or closer where that gives fewer than are wanted."""
    places: list[tuple[int, int]] = []
    for part in (2, 4, 8, 16):
        if len(places) < wanted:
            columns, rows = (_places(length, cutting.size, cutting.size // part, rng) for length in size)
            places = [(left, top) for top in rows for left in columns]
    return places


def _places(length: int, tile: int, step: int, rng: np.random.Generator) -> range:
    room = length - tile
    return range(int(rng.integers(room % step + 1)), room + 1, step)


def _choose(scaled: Image.Image, side: int, places: list[tuple[int, int]], count: int, cutting: Cutting) -> list[Tile]:
    """The first `count` tiles that are not dull, and few dull ones."""
    chosen: list[Tile] = []
    dull = 0
    for left, top in places:
        if len(chosen) == count:
            break
        image = scaled.crop((left, top, left + cutting.size, top + cutting.size))
        if activity(image) < cutting.dull:
            if dull >= cutting.dull_share * count:
                continue
            dull += 1
        chosen.append(Tile(image, side, left, top))
    return chosen
