"""TIFF in its variety, as tifffile writes it: 16 bits, turned, by planes, white at zero; and what is not read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from saicinpainting.io.extras import ImageExtras, read_extras
from saicinpainting.io.pixels import decode_pixels
from saicinpainting.utils import InputError

DEEP = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 4)).astype(np.uint16)


def written(file: Path, pixels: np.ndarray, **options: Any) -> bytes:
    tifffile.imwrite(file, pixels, **options)
    return file.read_bytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_are_turned_as_eight_are(tmp_path: Path, channels: int, compression: str | None):
    pixels = DEEP[..., 0] if channels == 1 else DEEP[..., :channels]
    options = {"photometric": "minisblack" if channels == 1 else "rgb", "compression": compression}
    for orientation in range(1, 9):
        tags = [(274, "H", 1, orientation, True)]
        deep, plain = (
            decode_pixels(written(tmp_path / "a.tif", each, extratags=tags, **options), "a.tif")
            for each in (pixels, (pixels >> 8).astype(np.uint8))
        )
        assert deep.colours.dtype == np.uint16
        np.testing.assert_array_equal(deep.colours >> 8, plain.colours)
        assert (deep.alpha is None) == (plain.alpha is None) == (channels < 4)
        if deep.alpha is not None and plain.alpha is not None:
            np.testing.assert_array_equal(deep.alpha >> 8, plain.alpha)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_zero_is_white_where_the_file_says_so(tmp_path: Path, depth: type):
    pixels = DEEP[..., 0].astype(depth)
    got = decode_pixels(written(tmp_path / "a.tif", pixels, photometric="miniswhite"), "a.tif").colours[..., 0]
    np.testing.assert_array_equal(got, np.iinfo(depth).max - pixels)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_one_after_the_other_are_read_in_eight_bits_and_refused_in_sixteen(tmp_path: Path, compression: Any):
    planes = np.ascontiguousarray(DEEP[..., :3].transpose(2, 0, 1))
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    eight = (planes >> 8).astype(np.uint8)
    got = decode_pixels(written(tmp_path / "a.tif", eight, **options), "a.tif").colours
    np.testing.assert_array_equal(got, eight.transpose(1, 2, 0))
    with pytest.raises(InputError, match=r"a\.tif: 16 bits with its channels one after the other; save it with inter"):
        decode_pixels(written(tmp_path / "a.tif", planes, **options), "a.tif")


def test_floats_are_named_by_whoever_reads_them(tmp_path: Path):
    data = written(tmp_path / "a.tif", DEEP[..., :3].astype(np.float32) / 65535, photometric="rgb")
    assert decode_pixels(data, "a.tif").colours.dtype == np.float32
    assert read_extras(tmp_path / "a.tif") == ImageExtras()


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (DEEP[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}),
        (DEEP[..., :3], {"photometric": "cielab"}),
        (DEEP[..., :3].astype(np.uint32), {"photometric": "rgb"}),
    ],
    ids=["grey and alpha", "Lab", "32 bits"],
)
def test_what_only_a_part_would_be_read_of_is_an_error_of_one_line(tmp_path: Path, pixels: np.ndarray, options: Any):
    data = written(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(InputError, match=r"a\.tif: it is no image that is read, but a TIFF of another kind"):
        decode_pixels(data, "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: it is no image that is read, but a TIFF of another kind"):
        read_extras(tmp_path / "a.tif")
