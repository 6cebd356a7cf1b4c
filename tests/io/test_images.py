"""Written pictures, and what the user is told where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saicinpainting.io.extras import ImageExtras
from saicinpainting.io.images import in_channels, write_image
from saicinpainting.io.pixels import FilePixels
from saicinpainting.utils import InputError


def picture() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (6, 9, 3)).astype(np.uint8)


def test_any_name_and_new_folders_keep_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "небо" / "雪.png"
    write_image(path, picture())
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture())


def test_unknown_ending_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    for name in ("a.nothing", "a"):
        with pytest.raises(InputError, match=rf"{name}: cannot write an image with the ending .*; use \.png"):
            write_image(tmp_path / name, picture())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_disk_that_takes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=rf"{error.strerror}: '.*a\.png'"):
        write_image(tmp_path / "a.png", picture())


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileExistsError, match="out"):
        write_image(tmp_path / "out" / "a.png", picture())


def test_a_picture_beyond_the_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: an image of shape \(70000, 1, 3\) does not fit .*; use \.png"):
        write_image(tmp_path / "a.jpg", np.zeros((70000, 1, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_come_in_the_channels_that_are_asked_for(dtype: type) -> None:
    rng, most = np.random.RandomState(0), np.iinfo(dtype).max
    rgb = rng.randint(0, most, (5, 7, 3)).astype(dtype)
    grey, alpha = rgb[..., :1], rng.randint(0, most, (5, 7)).astype(dtype)
    np.testing.assert_array_equal(in_channels(FilePixels(grey, alpha), 1, "a"), grey)
    np.testing.assert_array_equal(in_channels(FilePixels(grey), 3, "a"), grey.repeat(3, axis=2))
    np.testing.assert_array_equal(in_channels(FilePixels(rgb, alpha), 4, "a"), np.dstack([rgb, alpha]))
    np.testing.assert_array_equal(in_channels(FilePixels(grey, alpha), 2, "a"), np.dstack([grey, alpha]))
    full = in_channels(FilePixels(rgb), 4, "a")
    assert full.dtype == dtype
    assert (full[..., 3] == most).all()
    luma = rgb.astype(float) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    np.testing.assert_allclose(in_channels(FilePixels(rgb), 1, "a")[..., 0], luma, atol=most / 5000 + 0.51)
    with pytest.raises(InputError, match=r"cannot read the image a in 5 channels \(generator\.output_nc\)"):
        in_channels(FilePixels(rgb), 5, "a")


@pytest.mark.parametrize("dpi", [None, (72.0, 72.0)])
@pytest.mark.parametrize(("ending", "side"), [(".webp", 16_384), (".jpg", 65_536)])
def test_a_side_that_the_format_does_not_hold_is_named(tmp_path: Path, ending: str, side: int, dpi: Any) -> None:
    pixels = np.zeros((2, side, 3), np.uint8)
    with pytest.raises(InputError, match=rf"a{ending}: .*{side}.* does not fit the format; use \.png"):
        write_image(tmp_path / f"a{ending}", pixels, ImageExtras(dpi=dpi))
    assert not list(tmp_path.iterdir())
    write_image(tmp_path / "a.png", pixels, ImageExtras(dpi=dpi))
