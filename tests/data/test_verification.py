"""Sets with files that cannot be used: which are named, and that whole ones are not decoded for it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.data import verification as soundness
from saicinpainting.data.verification import upright_size, verify_images
from saicinpainting.io.images import read_image
from saicinpainting.utils import InputError
from tests.helpers import dirty_folder, photo


def save(path: Path, width: int = 60, height: int = 40, **settings) -> str:
    Image.fromarray(photo("coffee.png", 80, 100)[:height, :width]).save(path, **settings)
    return str(path)


@pytest.fixture
def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_sizes_are_those_of_the_pictures_that_are_read(tmp_path, suffix, turned):
    for name, settings in {"plain": {}, "turned": {"exif": turned}}.items():
        if name == "plain" or suffix != ".bmp":
            file = save(tmp_path / f"{name}{suffix}", **settings)
            assert upright_size(file) == read_image(file).size == ((60, 40) if name == "plain" else (40, 60))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_ordinary_files_are_not_decoded(tmp_path, monkeypatch, suffix):
    def read(path: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(soundness, "read_image", read)
    assert upright_size(save(tmp_path / f"a{suffix}")) == (60, 40)
    assert upright_size(save(tmp_path / f"b{suffix}", icc_profile=b"profile", dpi=(72, 72))) == (60, 40)


def test_a_dirty_folder(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    dirty_folder(tmp_path)
    broken, files = [], sorted(tmp_path.iterdir())
    for file in files:
        try:
            size = read_image(file).size
        except InputError:
            broken.append(file.name)
            with pytest.raises(InputError, match=file.name):
                upright_size(str(file))
        else:
            assert upright_size(str(file)) == size
    assert len(broken) >= 3
    with pytest.raises(InputError, match=rf"^data\.val: {len(broken)} of {len(files)} files cannot be used") as error:
        verify_images(map(str, files), where="data.val")
    assert all(name in str(error.value) for name in broken)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_files_that_are_cut_off(tmp_path, suffix, share):
    file = Path(save(tmp_path / f"a{suffix}"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(InputError, match="cannot read the image"):
        upright_size(str(file))


def test_masks_of_another_size(tmp_path, turned):
    masks = [save(tmp_path / f"{i}_mask.png", width=30 + i) for i in range(14)]
    image, upright = save(tmp_path / "image.png"), save(tmp_path / "turned.jpg", 40, 60, exif=turned)
    assert verify_images([image, upright], [image, image], where="data.val") == [(60, 40)] * 2
    with pytest.raises(InputError, match=r"0_mask\.png is 30x40 pixels, its image 60x40; .*; and 4 more$") as error:
        verify_images([image] * 14, masks, where="data.val")
    assert str(error.value).count("its image") == 10


def test_a_png_may_say_at_its_end_how_it_is_turned(tmp_path, turned):
    plain = Path(save(tmp_path / "plain.png")).read_bytes()
    chunk = Path(save(tmp_path / "exif.png", exif=turned)).read_bytes()
    first = chunk.index(b"eXIf") - 4
    chunk = chunk[first : first + 12 + int.from_bytes(chunk[first : first + 4], "big")]
    late = tmp_path / "late.png"
    late.write_bytes(plain[:-12] + chunk + plain[-12:])
    assert read_image(late).size == (40, 60)
    verify_images([str(late)], [save(tmp_path / "mask.png", 40, 60)], where="data.val")


def test_arrays_are_no_part_of_it(tmp_path):
    """A file of floating-point numbers is one that `read_image` refuses."""
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="floating-point pixels"):
        verify_images([str(tmp_path / "a.tif")], where="data.val")
