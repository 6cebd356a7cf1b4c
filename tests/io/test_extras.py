"""What results keep of their image's file: depth, profile, resolution, alpha, in every format that can."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from saicinpainting.io.extras import ImageExtras, read_extras
from saicinpainting.io.images import load_image, write_image

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]


def colours(dtype: type = np.uint8) -> np.ndarray:
    return np.random.RandomState(0).randint(0, np.iinfo(dtype).max + 1, (12, 17, 3)).astype(dtype)


def alpha(dtype: type = np.uint8) -> np.ndarray:
    return np.random.RandomState(1).randint(0, np.iinfo(dtype).max + 1, (12, 17)).astype(dtype)


def raw(path: Path) -> np.ndarray:
    """The file by OpenCV, red first; by Pillow where OpenCV multiplies alpha in."""
    with Image.open(path) as image:
        if image.format == "TIFF" and image.mode == "RGBA" and ";16" not in repr(image.tile):
            return np.asarray(image)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp", ".jpg", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_each_format_keeps_what_it_can(tmp_path: Path, ending: str, dtype: type, with_alpha: bool) -> None:
    extras = ImageExtras(dtype is np.uint16, alpha(dtype) if with_alpha else None, RGB_PROFILE, dpi=(300, 150))
    file = tmp_path / f"a{ending}"
    write_image(file, colours(dtype), extras)
    with Image.open(file) as image:
        image.load()
        assert image.info.get("icc_profile") == (None if ending == ".bmp" else RGB_PROFILE)
        if ending in (".png", ".tif", ".jpg"):
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    expected = colours(dtype)
    if dtype is np.uint16 and ending not in (".png", ".tif"):
        expected = np.round(expected / 257).astype(np.uint8)
    found = raw(file)
    assert found.dtype == expected.dtype
    if ending == ".jpg":
        return
    assert found.shape[2] == (4 if with_alpha and ending != ".bmp" else 3)
    if found.shape[2] == 4:
        kept = alpha(dtype) if expected.dtype == dtype else np.round(alpha(dtype) / 257)
        np.testing.assert_array_equal(found[..., 3], kept)
    np.testing.assert_array_equal(found[..., :3], expected)


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("painted", [False, True])
def test_colours_that_alpha_hides_are_written_too(tmp_path: Path, ending: str, painted: bool) -> None:
    """painted: alpha is one of the network's channels."""
    clear = np.zeros((12, 17), np.uint8)
    pixels, extras = colours(), ImageExtras(alpha=None if painted else clear)
    write_image(tmp_path / f"a{ending}", np.dstack([pixels, clear]) if painted else pixels, extras)
    with Image.open(tmp_path / f"a{ending}") as image:
        np.testing.assert_array_equal(np.asarray(image), np.dstack([pixels, clear]))


def test_an_ordinary_result_is_written_as_before(tmp_path: Path) -> None:
    for ending in (".png", ".jpg", ".tif", ".webp"):
        file = tmp_path / f"a{ending}"
        write_image(file, colours())
        assert file.read_bytes() == cv2.imencode(ending, colours()[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize(("with_alpha", "dtype"), [(False, np.uint8), (True, np.uint8), (False, np.uint16)])
def test_a_grey_profile_makes_a_grey_result(tmp_path: Path, ending: str, with_alpha: bool, dtype: type) -> None:
    grey = alpha(dtype)
    extras = ImageExtras(dtype is np.uint16, grey if with_alpha else None, GREY_PROFILE, True)
    file = tmp_path / f"a{ending}"
    write_image(file, grey[..., None].repeat(3, axis=2), extras)
    with Image.open(file) as image:
        assert image.info["icc_profile"] == GREY_PROFILE
        if ending == ".png" or (ending == ".tif" and dtype is np.uint8):
            assert image.mode == ("LA" if with_alpha else "L" if dtype is np.uint8 else "I;16")
        if dtype is np.uint8 and ending != ".jpg":
            np.testing.assert_array_equal(np.asarray(image.convert("L")), grey)
    if ending == ".png" and dtype is np.uint16:
        np.testing.assert_array_equal(load_image(file)[0], grey.astype(np.float32) / 65535)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with a clear colour", "L", "LA"])
def test_extras_are_those_of_the_file(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(colours())
    if mode == "RGBA":
        image.putalpha(Image.fromarray(alpha()))
    elif mode != "RGB":
        image = image.convert(mode[:2].strip())
    options = {"transparency": 3} if "clear" in mode else {}
    image.save(tmp_path / "a.png", dpi=(72, 96), icc_profile=RGB_PROFILE, **options)
    extras = read_extras(tmp_path / "a.png")
    assert (extras.deep, extras.grey, extras.profile) == (False, False, RGB_PROFILE)
    assert extras.dpi == pytest.approx((72, 96), abs=0.02)
    assert (extras.alpha is not None) == (mode in ("RGBA", "LA", "P with a clear colour"))
    if mode == "RGBA":
        np.testing.assert_array_equal(extras.alpha, alpha())
    if "clear" in mode:
        np.testing.assert_array_equal(extras.alpha == 0, np.asarray(image) == 3)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_read_to_the_last(tmp_path: Path, ending: str, channels: int) -> None:
    pixels = np.dstack([colours(np.uint16), alpha(np.uint16)])[..., :channels]
    cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels)
    extras = read_extras(tmp_path / f"a.{ending}")
    assert extras.deep
    assert (extras.alpha is not None) == (channels == 4)
    found = np.rint(load_image(tmp_path / f"a.{ending}") * 65535).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, pixels[..., :3] if channels > 1 else pixels.repeat(3, axis=2))


def test_a_profile_of_other_colours_than_the_result_is_left_out(tmp_path: Path) -> None:
    cmyk = RGB_PROFILE[:16] + b"CMYK" + RGB_PROFILE[20:]
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=cmyk)
    assert read_extras(tmp_path / "a.jpg").profile is None
