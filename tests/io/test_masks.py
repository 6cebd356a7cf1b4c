"""Masks as people have them: any bit depth, palettes, transparency; and what is said of odd ones."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from saicinpainting.io import masks
from saicinpainting.io.masks import odd_hole, read_hole
from saicinpainting.utils import InputError

HOLE = np.zeros((40, 60), bool)
HOLE[10:20, 15:40] = True


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    masks._told.clear()
    yield
    masks._told.clear()


def _values(value: object, dtype: type) -> np.ndarray:
    return (HOLE * np.asarray(value)).astype(dtype)


def _colour(*channels: int, dtype: type = np.uint8) -> np.ndarray:
    return np.stack([_values(channel, dtype) for channel in channels], axis=2)


def _with_pillow(pixels: np.ndarray, ending: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, ending)
    return file.getvalue()


def _with_opencv(pixels: np.ndarray, ending: str) -> bytes:
    return bytes(cv2.imencode(f".{ending}", pixels)[1])


def _palette(colours: list[int], *, background: int = 0) -> bytes:
    image = Image.fromarray(np.where(HOLE, 1 - background, background).astype(np.uint8))
    image = image.convert("P")
    image.putpalette(colours)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


FILES = {
    "1 bit": lambda: _with_pillow(HOLE, "png"),
    "1 bit tiff": lambda: _with_pillow(HOLE, "tiff"),
    "8 bit of 1": lambda: _with_pillow(_values(1, np.uint8), "png"),
    "16 bit of 1": lambda: _with_opencv(_values(1, np.uint16), "png"),
    "16 bit of 128": lambda: _with_opencv(_values(128, np.uint16), "tiff"),
    "32 bit": lambda: _with_pillow(_values(100000, np.int32), "tiff"),
    "float": lambda: _with_pillow(_values(0.001, np.float32), "tiff"),
    "float colours": lambda: _with_opencv(
        _colour(0, 0, 0, dtype=np.float32) + HOLE[..., None] * np.float32(0.01), "tiff"
    ),
    "red of 1": lambda: _with_pillow(_colour(1, 0, 0), "png"),
    "blue of 4": lambda: _with_pillow(_colour(0, 0, 4), "png"),
    "blue of 1, 16 bit": lambda: _with_opencv(_colour(1, 0, 0, dtype=np.uint16), "png"),
    "green of 1, 16 bit tiff": lambda: _with_opencv(_colour(0, 1, 0, dtype=np.uint16), "tiff"),
    "16 bit with alpha": lambda: _with_opencv(_colour(1, 0, 0, 0, dtype=np.uint16) + np.uint16([0, 0, 0, 9]), "png"),
    "palette": lambda: _palette([0, 0, 0, 0, 0, 1]),
    "palette with black last": lambda: _palette([0, 0, 1, 0, 0, 0], background=1),
    "same alpha everywhere": lambda: _with_pillow(_colour(255, 0, 0, 0), "png"),
    "grey, same alpha": lambda: _with_pillow(_colour(9, 0) + np.uint8([0, 255]), "png"),
    "alpha varies beside colours": lambda: _with_pillow(np.dstack([_colour(9, 0, 0), HOLE[::-1].astype("u1")]), "png"),
    "red on transparent white": lambda: _with_pillow(
        np.where(HOLE[..., None], np.uint8([255, 0, 0, 255]), np.uint8([255, 255, 255, 0])), "png"
    ),
    "black on transparent black": lambda: _with_pillow(_colour(0, 0, 0, 200), "png"),
    "grey with alpha on black": lambda: _with_pillow(_colour(0, 7), "png"),
    "16 bit drawn on transparency": lambda: _with_opencv(_colour(0, 0, 0, 300, dtype=np.uint16), "png"),
}


@pytest.mark.parametrize("kind", FILES)
def test_hole_is_where_the_file_is_not_black(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mask").write_bytes(FILES[kind]())
    hole = read_hole(tmp_path / "mask")
    assert hole.dtype == bool
    np.testing.assert_array_equal(hole, HOLE)


def test_a_mask_is_turned_upright_at_any_depth(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_values(255, np.uint8)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_hole(tmp_path / "a.png"), np.rot90(HOLE, -1))


def test_an_erased_mask_may_mean_two_things(tmp_path: Path) -> None:
    pixels = np.full((40, 60, 4), 255, np.uint8)
    pixels[HOLE, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "erased.png")
    with pytest.raises(InputError, match=r"erased\.png: .* everything is hole.* \(90%\) .* \(10%\); save"):
        read_hole(tmp_path / "erased.png")


def _disc(value: int, side: int = 200) -> np.ndarray:
    return cv2.circle(np.zeros((side, side), np.uint8), (90, 80), 50, value, -1)


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (_disc(0), {}, "is empty"),
        (np.full((20, 20), 7, np.uint8), {}, "is hole in 100.0%"),
        (255 - _disc(255), {}, "seems inverted: 80%"),
        (_disc(255), {"format": "jpeg"}, "seems noisy"),
        (_disc(255), {}, ""),
        (cv2.GaussianBlur(_disc(255), (0, 0), 9), {}, ""),
        (np.arange(40000).reshape(200, 200).astype(np.uint8) % 5, {}, "seems inverted"),
    ],
    ids=["empty", "full", "inverted", "jpeg", "disc", "soft", "labels"],
)
def test_odd_masks_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pixels: np.ndarray, options: dict[str, str], said: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "m", options.get("format", "png"))
    with caplog.at_level(logging.WARNING):
        read_hole(tmp_path / "m")
        read_hole(tmp_path / "m")
    assert len(caplog.records) == bool(said)
    assert said in caplog.text


def test_noise_is_found_after_a_jpeg_became_a_png(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(_disc(255)).save(tmp_path / "m.jpg", quality=75)
    Image.open(tmp_path / "m.jpg").save(tmp_path / "m.png")
    read_hole(tmp_path / "m.png")
    assert "m.png seems noisy" in caplog.text


def test_a_large_hole_inside_is_not_odd() -> None:
    inside = np.zeros((100, 100), bool)
    inside[8:92, 8:92] = True
    assert not odd_hole(inside)
    assert "inverted" in odd_hole(~HOLE)
