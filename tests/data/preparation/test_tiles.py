"""Tiles of photographs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from saicinpainting.data.preparation.tiles import Cutting, activity, cut_tiles, scale_sides, share_out

CUTTING = Cutting(size=32, sides=(32, 110), per_photograph=40)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft noise, flat at no scale."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).resize((width, height))


def cut(image: Image.Image, cutting: Cutting = CUTTING, seed: int = 0):
    return cut_tiles(image, cutting, np.random.default_rng(seed))


def test_a_tile_is_the_square_of_the_resized_photograph_that_its_place_names():
    image = photograph(180, 120)
    tiles = cut(image)
    assert len({(tile.side, tile.left, tile.top) for tile in tiles}) == len(tiles)
    for tile in tiles:
        width, height = round(180 * tile.side / 120), tile.side
        assert 0 <= tile.left <= width - 32
        assert 0 <= tile.top <= height - 32
        scaled = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(tile.image, scaled[tile.top : tile.top + 32, tile.left : tile.left + 32])


def test_every_scale_has_a_fair_share_and_a_large_photograph_no_more_than_a_middling_one():
    for size in ((180, 120), (3000, 2000)):
        tiles = cut(photograph(*size))
        assert len(tiles) == 40
        counts = [sum(tile.side == side for tile in tiles) for side in scale_sides(size, CUTTING)]
        assert len(counts) == 6
        assert min(counts) >= 3
        assert max(counts) <= 10
        assert max(tile.side for tile in tiles) <= 110


def test_photographs_are_never_enlarged():
    assert {tile.side for tile in cut(photograph(60, 45))} == {32, 40}
    assert cut(photograph(60, 31)) == []


def test_the_same_seed_cuts_the_same_tiles_and_another_seed_others():
    def places(seed: int) -> list[tuple[int, int, int]]:
        return [(tile.side, tile.left, tile.top) for tile in cut(photograph(180, 120), seed=seed)]

    assert places(1) == places(1)
    assert places(1) != places(2)


def test_few_tiles_are_dull_and_none_where_none_are_allowed():
    pixels = np.array(photograph(400, 300))
    pixels[:200] = 180  # a sky
    image = Image.fromarray(pixels)
    for share in (0.0, 0.2):
        tiles = cut(image, Cutting(size=32, sides=(32, 110), per_photograph=40, dull_share=share))
        dull = sum(np.ptp(np.asarray(tile.image).reshape(-1, 3), axis=0).max() == 0 for tile in tiles)
        assert len(tiles) > 20
        assert (dull > 0) == (share > 0)
        assert dull <= 0.35 * len(tiles)  # a scale's share is rounded up to whole tiles


def test_activity_is_the_mean_deviation_within_blocks():
    assert activity(Image.new("RGB", (64, 64), (10, 200, 30))) == 0
    grey = np.random.default_rng(0).integers(0, 256, (40, 52), np.uint8)
    blocks = [grey[y : y + 16, x : x + 16].std() for y in (0, 16) for x in (0, 16, 32)]
    assert activity(Image.fromarray(grey)) == pytest.approx(np.mean(blocks), rel=1e-5)


@pytest.mark.parametrize(
    ("total", "room", "shares"),
    [(10, [100, 100], [5, 5]), (10, [2, 100, 100], [2, 4, 4]), (10, [1, 2, 3], [1, 2, 3]), (7, [9, 9], [3, 4])],
)
def test_shares_are_as_even_as_the_room_allows(total, room, shares):
    assert share_out(total, room) == shares
