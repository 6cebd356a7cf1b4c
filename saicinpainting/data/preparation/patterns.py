"""Regular patterns drawn by program, so that a network learns that lines go on: bricks, planks, fences, windows.

A pattern is a function of plane coordinates. Each pixel of the image is taken to the plane by a random perspective, so
that lines converge as they do in photographs of walls and floors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 2

NATURAL = np.array(
    [
        *([150, 78, 58], [176, 110, 82], [120, 60, 48]),  # brick, terracotta
        *([128, 126, 120], [170, 166, 156], [92, 92, 94], [206, 202, 194]),  # stone, concrete, slate
        *([146, 106, 68], [94, 64, 42], [190, 150, 104], [60, 46, 36]),  # wood
        *([214, 190, 150], [232, 222, 200], [242, 240, 236]),  # sand, plaster, white paint
        *([72, 92, 56], [110, 124, 70], [52, 76, 96], [118, 150, 176]),  # leaves, paint, sky
        *([34, 34, 38], [160, 52, 48], [196, 160, 66]),  # iron, red and yellow paint
    ],
    np.float32,
)
"""RGB colours of materials."""


@dataclass(frozen=True)
class Cells:
    """A pattern at every pixel.

    Args:
        part: (H, W) 0 in joints or gaps, else which colour, from 1 on.
        cell: (H, W) a number for each brick or board, whose tones differ a little.
        open: joints are gaps; what lies behind shows through them.
    """

    part: np.ndarray
    cell: np.ndarray
    open: bool = False


Pattern = Callable[[np.ndarray, np.ndarray, np.random.Generator], Cells]


def _stripes(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    edges = np.cumsum(rng.uniform(0.15, 1, int(rng.integers(2, 5))))
    part = np.searchsorted(edges[:-1] / edges[-1], u % 1, side="right")
    return Cells(part, np.floor(u).astype(int))


def _bricks(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    joint, shift = rng.uniform(0.04, 0.14), rng.choice([0.5, 0.5, 1 / 3])
    row = np.floor(v)
    along = u / rng.uniform(1.6, 3.2) + shift * row
    width = joint / 2
    part = (v % 1 > joint) & (along % 1 > width)
    return Cells(part.astype(int), _number(np.floor(along), row))


def _tiles(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    joint = rng.uniform(0.02, 0.12)
    part = (u % 1 > joint) & (v % 1 > joint)
    return Cells(part.astype(int), _number(np.floor(u), np.floor(v)))


def _checkers(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    part = 1 + (np.floor(u) + np.floor(v)).astype(int) % 2
    return Cells(part, _number(np.floor(u), np.floor(v)))


def _planks(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    joint, length = rng.uniform(0.02, 0.08), rng.uniform(4, 12)
    board = np.floor(v)
    along = u / length + _noise_of(board)
    part = (v % 1 > joint) & (along % 1 > joint / length)
    return Cells(part.astype(int), _number(np.floor(along), board))


def _windows(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    wide, high, frame = rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.75), rng.uniform(0.03, 0.08)
    x, y = np.abs(u % 1 - 0.5) * 2, np.abs(v % 1 - 0.5) * 2
    window = (x < wide) & (y < high)
    pane = (x < wide - frame) & (y < high - frame) & ((x > frame / 2) | (rng.random() < 0.5))
    part = np.where(pane, 0, np.where(window, 2, 1))
    return Cells(part, _number(np.floor(u), np.floor(v)) * window)


def _fence(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    wide, rail, height = rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.3), rng.uniform(3, 6)
    picket = u % 1 < wide
    rails = v % height < rail
    return Cells(np.where(picket, 1, np.where(rails, 2, 0)), np.floor(u).astype(int), open=True)


def _mesh(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Cells:
    wire = rng.uniform(0.06, 0.2)
    first, second = ((u + v) % 1 < wire, (u - v) % 1 < wire) if rng.random() < 0.5 else (u % 1 < wire, v % 1 < wire)
    return Cells((first | second).astype(int), np.zeros(u.shape, int), open=True)


PATTERNS: tuple[Pattern, ...] = (_stripes, _bricks, _bricks, _tiles, _checkers, _planks, _windows, _fence, _mesh)


def draw_pattern(size: int, behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random pattern.

    Args:
        size: side of the image in pixels.
        behind: (size, size, 3) uint8, a photograph that shows through fences and whose colours half of the patterns
            take.

    Returns:
        (size, size, 3) uint8.
    """
    side = size * SUPERSAMPLING
    u, v = _plane(side, rng)
    cells = PATTERNS[int(rng.integers(len(PATTERNS)))](u, v, rng)
    image = _paint(cells, _colours(behind, rng), rng)
    image *= 1 + rng.uniform(0.05, 0.25) * _fractal_noise(side, rng, stretch=rng.choice([1, 1, 6]))[..., None]
    if cells.open:
        far = cv2.resize(behind, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        image = np.where(cells.part[..., None] == 0, far, image)
    image *= _light(side, rng)[..., None]
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.3, 0.9))
    noise = rng.normal(0, rng.uniform(0, 4), small.shape)
    return np.clip(small + noise, 0, 255).round().astype(np.uint8)


def _plane(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates (side, side) of all pixels: turned, in perspective, now and then bent; a cell is 1 wide."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle = rng.normal(0, 0.12) if rng.random() < 0.5 else rng.uniform(0, np.pi)
    turned = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    tilt = rng.uniform(-0.9, 0.9, 2) * (rng.random() < 0.7)
    depth = 1 + tilt[0] * x + tilt[1] * y  # from 0.1 to 1.9
    cells = np.exp(rng.uniform(np.log(4), np.log(22)))
    u, v = (cells * t / depth for t in turned)
    if rng.random() < 0.2:
        u = u + rng.uniform(0.3, 1) * np.sin(v * rng.uniform(0.2, 0.8))
    return u + rng.uniform(0, 100), v + rng.uniform(0, 100)


def _number(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * 131 + second * 7919).astype(int)


def _noise_of(cell: np.ndarray, salt: float = 0.0) -> np.ndarray:
    """A number from 0 to 1 for each cell, the same wherever the cell is seen."""
    return (np.sin(cell * 12.9898 + salt) * 43758.5453) % 1


def _colours(behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours (5, 3) of joints and parts, of materials or of the photograph."""
    if rng.random() < 0.5:
        colours = NATURAL[rng.integers(len(NATURAL), size=5)] * rng.uniform(0.7, 1.15)
    else:
        tones = cv2.resize(behind, (8, 8), interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float32)
        colours = tones[rng.choice(len(tones), 5, replace=False)]
    return colours + rng.normal(0, 8, (5, 3)).astype(np.float32)


def _paint(cells: Cells, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each part in its colour, each cell a little lighter or darker than its neighbours: (H, W, 3) float32."""
    image = colours[cells.part]
    strength = rng.uniform(0.02, 0.3)
    tone = 1 + strength * (_noise_of(cells.cell, rng.uniform(0, 6)) - 0.5) * (cells.part > 0)
    return (image * tone[..., None]).astype(np.float32)


def _fractal_noise(side: int, rng: np.random.Generator, *, stretch: int = 1) -> np.ndarray:
    """Noise (side, side) from about -1 to 1, half as strong at each finer scale; `stretch`: drawn out like grain."""
    noise, strength, cells = np.zeros((side, side), np.float32), 0.5, 4
    while cells <= side:
        values = rng.uniform(-1, 1, (cells, max(2, cells // stretch))).astype(np.float32)
        noise += strength * cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC)
        strength, cells = strength * 0.7, cells * 2
    return noise


def _light(side: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness (side, side) that falls off to one side, and the soft edge of a shadow now and then."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    across = x * np.cos(angle) + y * np.sin(angle)
    light = 1 + rng.uniform(0, 0.5) * across
    if rng.random() < 0.25:
        edge = (across - rng.uniform(-0.3, 0.3)) / rng.uniform(0.01, 0.15)
        light = light * (1 - rng.uniform(0.2, 0.5) / (1 + np.exp(-np.clip(edge, -30, 30))))
    return light.astype(np.float32)
