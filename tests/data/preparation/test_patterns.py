"""Patterns drawn by program."""

from __future__ import annotations

import numpy as np
import pytest

from saicinpainting.data.preparation import patterns
from saicinpainting.data.preparation.patterns import PATTERNS, draw_pattern

BEHIND = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)


def grid(cells: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates of an image of `cells` by `cells` cells without perspective."""
    v, u = (np.mgrid[0:side, 0:side] + 0.5) * cells / side
    return u, v


def test_the_same_seed_draws_the_same_pattern_and_seeds_differ():
    first, again, other = (draw_pattern(48, BEHIND, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("pattern", set(PATTERNS), ids=lambda pattern: pattern.__name__)
def test_every_pattern_has_several_parts_and_colours_for_all_of_them(pattern):
    for seed in range(5):
        cells = pattern(*grid(12, 240), np.random.default_rng(seed))
        parts = set(np.unique(cells.part))
        assert len(parts) >= 2
        assert parts <= set(range(5))  # as many colours as _colours gives
        assert cells.cell.shape == cells.part.shape


@pytest.mark.parametrize("pattern", [patterns._tiles, patterns._windows, patterns._stripes, patterns._mesh])
def test_lines_go_on_from_cell_to_cell(pattern):
    part = pattern(*grid(12, 240), np.random.default_rng(0)).part
    assert (part[:, :200] != part[:, 40:]).mean() < 0.01  # but for rounding at edges; two cells: a mesh may be turned


def test_rows_of_bricks_are_shifted_and_joints_run_through():
    part = patterns._bricks(*grid(12, 480), np.random.default_rng(0)).part
    assert (part[:2] == 0).all()  # a joint as long as the wall
    assert (part[20] != part[60]).any()
    np.testing.assert_array_equal(part[20] == 0, part[30] == 0)


def test_what_lies_behind_shows_through_a_fence_and_not_through_a_wall(monkeypatch):
    black, white = np.zeros_like(BEHIND), np.full_like(BEHIND, 255)
    monkeypatch.setattr(patterns, "_colours", lambda behind, rng: np.full((5, 3), 128, np.float32))
    for pattern, seen in ((patterns._fence, True), (patterns._bricks, False)):
        monkeypatch.setattr(patterns, "PATTERNS", (pattern,))
        dark, bright = (draw_pattern(48, behind, np.random.default_rng(1)).astype(int) for behind in (black, white))
        assert ((bright - dark).max() > 100) == seen
        assert (bright - dark).min() < 20  # pickets hide it
