"""The transform variants: what they do to pixels, and the photometry against albumentations' own transforms."""

from __future__ import annotations

import random
import subprocess
import sys

import albumentations as A
import numpy as np
import pytest

from saicinpainting.data import aug
from saicinpainting.data.aug import VARIANTS, change_colours, get_transforms, to_float
from saicinpainting.utils import InputError
from tests.helpers import photo


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (90, 130), (40, 200), (1, 7)])
def test_output_is_float_and_depends_on_the_seed_only(variant, size):
    transform, image = get_transforms(variant, 64), noise(*size)
    first, _ = transform(image, 1)
    np.testing.assert_array_equal(first, transform(image, 1)[0])
    np.testing.assert_array_equal(first, get_transforms(variant, 64)(image, 1)[0])
    # A fourth channel changes nothing.
    np.testing.assert_array_equal(first, transform(np.dstack([image, noise(*size, seed=1)[..., 0]]), 1)[0])
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    assert first.min() >= 0
    assert 0.5 < first.max() <= 1  # scaled by 255 once
    assert first.shape == ((3, 64, 64) if VARIANTS[variant].geometry else (3, *size))
    if variant == "no_augs":
        np.testing.assert_allclose(first, image.transpose(2, 0, 1) / np.float32(255), atol=1e-7)
    else:
        assert any(not np.array_equal(first, transform(image, s)[0]) for s in range(2, 6))


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_follow_the_image(variant):
    """A picture that is its own label: after every geometry the two still agree."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:60, 30:80] = 255
    labels = {"mask": (image[..., 0] > 0).astype(np.uint8), "segm": np.where(image[..., 0] > 0, 7, 3).astype(np.uint8)}
    transform = get_transforms(variant, 64)
    for seed in range(10):
        moved, maps = transform(image, seed, labels)
        assert set(np.unique(maps["segm"])) <= {3, 7}
        np.testing.assert_array_equal(maps["mask"] == 1, maps["segm"] == 7)
        assert ((moved.mean(0) > 0.5) == (maps["mask"] == 1)).mean() > 0.95


class Draws(random.Random):
    """Hands out what a test wants drawn: the given coins, and the middle or the end of every range."""

    def __init__(self, coins: list[bool], place: float) -> None:
        super().__init__(0)
        self.coins, self.place = list(coins), place

    def random(self) -> float:
        return 0.1 if self.coins.pop(0) else 0.9

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.place


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_each_change_of_colours_is_that_of_albumentations(place):
    image = photo("coffee.png", 128, 50)

    def between(a: float, b: float) -> tuple[float, float]:
        return (a + (b - a) * place,) * 2

    steps = [
        A.CLAHE(clip_limit=between(1, 4), tile_grid_size=(8, 8), p=1),
        A.RandomBrightnessContrast(brightness_limit=between(-0.2, 0.2), contrast_limit=between(-0.2, 0.2), p=1),
        A.HueSaturationValue(between(-5, 5), between(-30, 30), between(-5, 5), p=1),
    ]
    for i, step in enumerate(steps):
        ours = change_colours(image, Draws([i == j for j in range(3)], place))
        theirs = step(image=image)["image"]
        assert np.abs(ours.astype(int) - theirs).max() <= 1, type(step).__name__
        assert not np.array_equal(ours, image)
    np.testing.assert_array_equal(change_colours(image, Draws([False] * 3, place)), image)


def test_colours_are_changed_independently_half_of_the_time(monkeypatch):
    applied: dict[str, list[bool]] = {}
    for module, name in [(aug.pixel, "clahe"), (aug.pixel, "shift_hsv"), (aug, "multiply_add")]:
        monkeypatch.setattr(module, name, lambda image, *_, name=name, **__: applied[name].append(True) or image)
    names = ["clahe", "multiply_add", "shift_hsv"]
    hits = []
    for seed in range(1000):
        applied.update({name: [] for name in names})
        change_colours(noise(2, 2), random.Random(seed))
        hits.append([bool(applied[name]) for name in names])
    rates = np.mean(hits, axis=0)
    np.testing.assert_allclose(rates, 0.5, atol=0.05)
    assert np.abs(np.corrcoef(np.transpose(hits)) - np.eye(3)).max() < 0.1


def test_to_float_is_exact():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_allclose(to_float(image), image.transpose(2, 0, 1) / 255, rtol=1e-7)


def test_unknown_variant():
    with pytest.raises(InputError, match=r"unknown 'distortion'.*did you mean 'distortions'"):
        get_transforms("distortion", 64)


@pytest.mark.slow
def test_import_asks_no_server():
    code = (
        "import socket, warnings; warnings.simplefilter('error')\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import saicinpainting.data.datasets\n"
        "import os; assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
    )
    clean = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# ---- other images than 8-bit RGB ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_sixteen_bits_are_augmented_as_eight_are_but_finer(seed: int):
    image = photo("astronaut.png", 96, 40)
    plain = change_colours(image, random.Random(seed)).astype(float)
    deep = change_colours(image.astype(np.uint16) * 257, random.Random(seed))
    assert deep.dtype == np.uint16
    # CLAHE makes much of what the lightness and the colours of 8 bits are rounded by.
    assert np.abs(deep / 257 - plain).mean() <= max(1, np.abs(plain - image).mean() / 4)
    if not np.array_equal(plain, image):
        assert len(np.unique(deep % 257)) > 20


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_channels_keep_their_number_and_alpha_its_values(channels: int, dtype: type, variant: str):
    image = np.random.RandomState(0).randint(0, np.iinfo(dtype).max, (64, 64, channels)).astype(dtype)
    if channels > 1:
        image[..., -1] = np.iinfo(dtype).max // 3
    transform = get_transforms(variant, 64, channels)
    for seed in range(4):
        result, _ = transform(image, seed)
        assert result.shape == (channels, 64, 64)
        assert result.dtype == np.float32
        assert 0.5 < result.max() <= 1
        if channels > 1:
            np.testing.assert_allclose(result[-1], 1 / 3, atol=1e-2)
    if variant == "no_augs":
        np.testing.assert_array_equal((result.astype(float) * np.iinfo(dtype).max).round(), image.transpose(2, 0, 1))


def test_grey_is_augmented_as_rgb_of_three_equal_channels_is(monkeypatch):
    """Brightness and contrast are the same; grey has no lightness apart from itself, and no hue."""
    monkeypatch.setattr(aug.pixel, "clahe", lambda image, *_: image)
    monkeypatch.setattr(aug, "equalize", lambda image, *_: image)
    grey = photo("astronaut.png", 64)[..., :1]
    for seed in range(10):
        single = change_colours(grey, random.Random(seed)).astype(int)
        triple = change_colours(grey.repeat(3, axis=2), random.Random(seed)).astype(int)
        assert single.shape == grey.shape
        assert np.abs(single - triple).max() <= 2  # OpenCV rounds saturation and value to 8 bits
