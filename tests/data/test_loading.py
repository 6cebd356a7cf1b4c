"""Decoding against Pillow and OpenCV, and what happens to images that are unusual or broken."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from saicinpainting.data import loading
from saicinpainting.data.aug import get_transforms
from saicinpainting.data.datasets import InpaintingTrainDataset, make_dataloader
from saicinpainting.data.geometry import to_rgb
from saicinpainting.data.loading import NAMED, Decoded, Fitting, ImageIssue, ImageLoader, decode
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.sources import FolderSource, ImageSource
from saicinpainting.masks.mixed import get_mask_generator
from saicinpainting.utils import InputError
from tests.helpers import dirty_folder, photo


def encoded(image: Image.Image, kind: str = "jpeg", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def picture(size: int = 100) -> Image.Image:
    return Image.fromarray(photo("astronaut.png", size, 60))


@pytest.mark.parametrize("settings", [{}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_plain_jpegs_are_decoded_as_pillow_and_opencv_do(settings):
    data = encoded(picture(), **settings)
    decoded = decode(data, "a.jpg")
    assert decoded.issue == ImageIssue.ORDINARY
    np.testing.assert_array_equal(to_rgb(decoded.pixels), np.asarray(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(
        to_rgb(decoded.pixels), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    )


def test_unusual_images_become_rgb():
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = picture().convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for expected, data in {
        ImageIssue.GREY: encoded(grey),
        ImageIssue.CMYK: encoded(picture().convert("CMYK")),
        ImageIssue.SIXTEEN_BIT: encoded(sixteen, "png"),
        ImageIssue.PALETTE: encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE), "png"),
        ImageIssue.ALPHA: encoded(picture().convert("RGBA"), "png"),
        ImageIssue.TURNED: encoded(picture(), exif=exif),
    }.items():
        decoded = decode(data, "a")
        assert decoded.issue == expected
        assert to_rgb(decoded.pixels).shape == (100, 100, 3)
        assert decoded.pixels.dtype == (np.uint16 if expected == ImageIssue.SIXTEEN_BIT else np.uint8)
        upright = np.asarray(picture()) if expected != ImageIssue.TURNED else np.rot90(np.asarray(picture()), k=-1)
        pixels = to_rgb(decoded.pixels).astype(float) / (257 if expected == ImageIssue.SIXTEEN_BIT else 1)
        error = np.abs(pixels.mean(2) - upright.mean(2)).mean()
        assert error < 12, expected  # luminance instead of the mean, JPEG losses


def test_upright_exif_and_harmless_rubbish_are_ordinary():
    exif = Image.Exif()
    exif[0x0112] = 1
    assert decode(encoded(picture(), exif=exif), "a").issue == ImageIssue.ORDINARY
    data = encoded(picture())
    assert decode(data + b"trailing rubbish", "a").issue == ImageIssue.ORDINARY


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_jpegs_are_unreadable(share):
    data = encoded(picture(200))
    with pytest.raises(InputError, match=r"cannot read the image cut\.jpg"):
        decode(data[: int(len(data) * share)], "cut.jpg")


def loader_of(folder: Path, **settings) -> ImageLoader:
    return ImageLoader(FolderSource(folder), fitting=Fitting(64), **settings)


def test_a_dirty_folder_is_used_as_far_as_it_goes(tmp_path, caplog):
    expected = dirty_folder(tmp_path)
    images = loader_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for i in range(len(images.source)):
                loaded, image = images.load(i)
                assert image.pixels.shape[2] in (3, 4)
                assert min(image.pixels.shape[:2]) >= 32
                assert (loaded == i) == (expected.get(Path(images.source.name(i)).name) != ImageIssue.UNREADABLE)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(expected) == 11  # each once
    for name in expected:
        assert sum(f"{name} is " in line for line in named) == 1
    kinds = [issue for issue in images.issues() if issue != ImageIssue.ORDINARY]
    assert set(kinds) == set(expected.values())


def test_the_same_image_takes_the_place_of_an_unusable_one(tmp_path):
    dirty_folder(tmp_path)
    first, second = loader_of(tmp_path), loader_of(tmp_path)
    order = range(len(first.source))
    taken = {i: first.load(i)[0] for i in order}
    assert {i: second.load(i)[0] for i in reversed(order)} == taken


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_what_they_find(tmp_path, workers):
    expected = dirty_folder(tmp_path)
    dataset = InpaintingTrainDataset(
        FolderSource(tmp_path), get_mask_generator("mixed", {"box_proba": 0}), get_transforms("distortions", 64), 64
    )
    keys = [SampleKey(i, i, 0) for i in range(len(dataset))] * 3
    data = make_dataloader(
        dataset, {"batch_size": 4, "num_workers": workers, "sampler": keys, "drop_last": False}, where="data.train"
    )
    assert sum(len(batch["image"]) for batch in data) == len(keys)
    found = dataset.images.issues()
    assert sum(count for issue, count in found.items() if issue != ImageIssue.ORDINARY) == len(expected)


def test_images_smaller_than_half_a_crop_are_enlarged(tmp_path):
    Image.fromarray(photo("coffee.png", 40)[:20]).save(tmp_path / "tiny.png")  # 40x20
    Image.fromarray(photo("coffee.png", 40)).save(tmp_path / "small.png")
    images = loader_of(tmp_path)
    assert to_rgb(images.load(0)[1].pixels).shape == (40, 40, 3)
    assert to_rgb(images.load(1)[1].pixels).shape == (64, 128, 3)


def test_images_that_are_too_long_to_be_warped_are_unusable(tmp_path, caplog):
    for name, size in {"a": (600, 1), "b": (32767, 40), "c": (32766, 40)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    images = loader_of(tmp_path)
    assert [images.load(i)[0] for i in range(3)] == [2, 2, 2]
    assert "600x1 pixels make a longer side of 38400 for a crop; expected up to 32766" in caplog.text
    transform = get_transforms("distortions", 64)
    for seed in range(8):
        assert transform(images.load(2)[1].pixels, seed, {})[0].shape == (3, 64, 64)


def broken(folder: Path, good: int, bad: int) -> Path:
    """Broken and good files take turns, as long as there are both."""
    folder.mkdir()
    for i in range(good):
        Image.fromarray(photo("coffee.png", 64)).save(folder / f"{i:03d}b.jpg")
    for i in range(bad):
        (folder / f"{i:03d}a.jpg").write_bytes(b"\xff\xd8broken")
    return folder


def test_too_many_failures_stop_the_run(tmp_path):
    images = loader_of(broken(tmp_path / "dirt", 20, 11))
    bad = [i for i in range(31) if images.source.name(i).endswith("a.jpg")]
    good = [i for i in range(31) if i not in bad]
    assert [images.load(i)[0] for i in good] == good
    with pytest.raises(
        InputError, match=r"11 of 31 images seen are unusable, more than max_failures=0\.05.*0\d\da\.jpg"
    ):
        list(map(images.load, bad))  # ten are let pass
    assert images.issues()[ImageIssue.UNREADABLE] == 11
    tolerant = loader_of(tmp_path / "dirt", max_failures=0.6)
    assert {tolerant.load(i)[0] for i in range(31)} <= set(good)
    strict = loader_of(tmp_path / "dirt", max_failures=0)
    strict.load(1)
    with pytest.raises(InputError, match=r"1 of 2 images seen are unusable"):
        strict.load(0)


class Shares(ImageSource):
    """Images of which the share `bad`, drawn from `seed`, cannot be read."""

    def __init__(self, images: int, bad: float, seed: int) -> None:
        self.images = images
        self.bad = set(np.random.RandomState(seed).permutation(images)[: round(bad * images)].tolist())

    def __len__(self) -> int:
        return self.images

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def read(self, index: int) -> bytes:
        if index in self.bad:
            raise OSError("gone")
        return b""


def images_before_the_stop(bad: float, seed: int, images: int = 1500) -> int:
    loader = ImageLoader(Shares(images, bad, seed), max_failures=0.05)
    for i in range(images):
        try:
            loader.load(i)
        except InputError:
            return i
    return images


def test_chance_alone_stops_no_run(monkeypatch):
    pixels = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr(loading, "decode", lambda data, name, channels: Decoded(pixels, ImageIssue.ORDINARY))
    monkeypatch.setattr(loading.LOGGER, "disabled", True)
    assert [images_before_the_stop(0.045, seed) for seed in range(12)] == [1500] * 12
    assert max(images_before_the_stop(0.055, seed) for seed in range(4)) < 1500
    assert max(images_before_the_stop(0.2, seed) for seed in range(4)) < 300


def test_bad_files_side_by_side_stop_no_run(monkeypatch):
    good = Decoded(np.zeros((1, 1, 3), np.uint8), ImageIssue.ORDINARY)
    monkeypatch.setattr(loading, "decode", lambda data, name, channels: good)
    source = Shares(5000, 0, 0)
    source.bad = set(range(1000, 1150))
    loader = ImageLoader(source, max_failures=1)
    taken = [loader.load(i)[0] for i in range(1000, 1150)]
    assert not source.bad & set(taken)
    assert len(set(taken)) > 140  # no image takes the place of many
    assert [ImageLoader(source, max_failures=1).load(i)[0] for i in range(1000, 1150)] == taken


def test_images_of_the_same_shard_come_first(monkeypatch):
    good = Decoded(np.zeros((1, 1, 3), np.uint8), ImageIssue.ORDINARY)
    monkeypatch.setattr(loading, "decode", lambda data, name, channels: good)
    source = Shares(900, 0, 0)
    source.bad = {100, *range(200, 300)}
    monkeypatch.setattr(source, "near", lambda index: range(index // 100 * 100, index // 100 * 100 + 100))
    loader = ImageLoader(source, max_failures=1)
    assert 100 < loader.load(100)[0] < 200
    assert loader.load(250)[0] not in range(200, 300)  # nothing there is usable


def test_nothing_usable(tmp_path):
    with pytest.raises(InputError, match=r"3 images in a row are unusable; the last one: cannot read .*00\da\.jpg"):
        loader_of(broken(tmp_path / "dirt", 0, 3)).load(0)


def test_the_share_of_failures_is_checked(tmp_path):
    with pytest.raises(InputError, match=r"data\.train\.max_failures: expected a share from 0 to 1, got 5"):
        loader_of(broken(tmp_path / "x", 1, 0), max_failures=5)


def test_a_flood_of_findings_is_counted_but_not_named(tmp_path, caplog):
    grey = encoded(Image.fromarray(photo("coffee.png", 64)).convert("L"))
    for i in range(NAMED + 5):
        (tmp_path / f"{i:04d}.jpg").write_bytes(grey)
    images = loader_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        for i in range(NAMED + 5):
            images.load(i)
    assert len(caplog.records) == NAMED + 1
    assert "counted, but not named" in caplog.records[-1].getMessage()
    assert images.issues() == {ImageIssue.GREY: NAMED + 5}


def test_what_the_disk_says_of_a_file_is_told(tmp_path, caplog, monkeypatch):
    for name in "ab":
        picture().save(tmp_path / f"{name}.jpg")
    source = FolderSource(tmp_path)
    read = FolderSource.read

    def failing(self, index: int) -> bytes:
        if index == 0:
            raise OSError(errno.EIO, "Input/output error", self.name(index))
        return read(self, index)

    monkeypatch.setattr(FolderSource, "read", failing)
    with caplog.at_level(logging.WARNING):
        assert ImageLoader(source).load(0)[0] == 1
    assert "a.jpg is unreadable; another image takes its place (Input/output error)" in caplog.text
