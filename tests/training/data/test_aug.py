"""The transform variants: their parameters, and what they do to pixels."""

from __future__ import annotations

import random
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest

from saicinpainting.training.data.aug import VARIANTS, CornerPerspective, augment, get_transforms
from saicinpainting.utils import InputError

PHOTOMETRIC = ["CLAHE", "RandomBrightnessContrast", "HueSaturationValue", "ToFloat"]
CROPPED = ["RandomCrop", "HorizontalFlip", *PHOTOMETRIC]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def steps_of(variant: str) -> dict[str, A.BasicTransform]:
    return {type(step).__name__: step for step in get_transforms(variant, 64).transforms}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (90, 130), (40, 200)])
def test_output_is_float_and_depends_on_the_seed_only(variant, size):
    transform, image = get_transforms(variant, 64), noise(*size)
    first = augment(transform, image, seed=1)
    np.testing.assert_array_equal(first, augment(transform, image, seed=1))
    np.testing.assert_array_equal(first, augment(get_transforms(variant, 64), image, seed=1))
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.max() > 0.5  # scaled by 255 once
    assert first.shape == ((64, 64, 3) if VARIANTS[variant].crop else (*size, 3))
    if variant == "no_augs":
        np.testing.assert_array_equal(first, image.astype(np.float32) / 255)
    else:
        assert any(not np.array_equal(first, augment(transform, image, seed=s)) for s in range(2, 6))


@pytest.mark.parametrize(
    ("variant", "order"),
    [
        ("default", ["RandomScale", "PadIfNeeded", *CROPPED]),
        ("distortions", ["CornerPerspective", "Affine", "PadIfNeeded", "OpticalDistortion", *CROPPED]),
        ("distortions_scale03_07", ["CornerPerspective", "Affine", "PadIfNeeded", "OpticalDistortion", *CROPPED]),
        ("distortions_light", ["CornerPerspective", "Affine", "PadIfNeeded", *CROPPED]),
        ("non_space_transform", PHOTOMETRIC),
        ("no_augs", ["ToFloat"]),
    ],
)
def test_order_of_the_steps(variant, order):
    assert list(steps_of(variant)) == order


@pytest.mark.parametrize(
    ("variant", "sigma", "scale", "rotate", "shear", "p"),
    [
        ("distortions", 0.06, (0.7, 1.3), 40, 0.1, 0.5),
        ("distortions_scale05_1", 0.06, (0.5, 1.0), 40, 0.1, 1),
        ("distortions_scale03_12", 0.06, (0.3, 1.2), 40, 0.1, 1),
        ("distortions_scale03_07", 0.06, (0.3, 0.7), 40, 0.1, 1),
        ("distortions_light", 0.02, (0.8, 1.8), 20, 0.03, 0.5),
    ],
)
def test_drawn_geometry_fills_its_ranges(variant, sigma, scale, rotate, shear, p):
    steps = steps_of(variant)
    affine, perspective = steps["Affine"], steps["CornerPerspective"]
    assert (affine.p, perspective.p) == (p, 0.5)
    assert (affine.border_mode, perspective.border_mode) == (cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE)
    assert perspective.scale == (0, sigma)
    affine.set_random_state(np.random.default_rng(0), random.Random(0))
    drawn = [affine.get_params_dependent_on_data({"shape": (64, 64, 3)}, {}) for _ in range(500)]
    x, y = (np.array([d["scale"][axis] for d in drawn]) for axis in "xy")
    angles = np.array([d["rotate"] for d in drawn])
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((*scale, *scale), abs=0.02)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.15  # the axes are independent
    assert (angles.min(), angles.max()) == pytest.approx((-rotate, rotate), abs=1)
    shears = np.array([affine._get_shear_params()["x"] for _ in range(300)])
    assert (shears.min(), shears.max()) == pytest.approx((-shear, shear), abs=shear / 20)


def test_default_rescales_isotropically():
    step, image = steps_of("default")["RandomScale"], noise(100, 50)
    step.set_random_state(np.random.default_rng(0), random.Random(0))
    sizes = np.array([step(image=image, force_apply=True)["image"].shape[:2] for _ in range(200)])
    np.testing.assert_allclose(sizes[:, 0], 2 * sizes[:, 1], atol=2)
    assert (sizes[:, 0].min(), sizes[:, 0].max()) == pytest.approx((80, 120), abs=2)
    assert step.p == 0.5


def test_photometric_ranges():
    steps = steps_of("distortions")
    assert steps["CLAHE"].clip_limit == (1, 4)
    assert steps["CLAHE"].tile_grid_size == (8, 8)
    contrast, hue = steps["RandomBrightnessContrast"], steps["HueSaturationValue"]
    assert contrast.brightness_limit == contrast.contrast_limit == (-0.2, 0.2)
    assert (hue.hue_shift_limit, hue.sat_shift_limit, hue.val_shift_limit) == ((-5, 5), (-30, 30), (-5, 5))
    assert steps["OpticalDistortion"].distort_limit == (-0.05, 0.05)
    assert {steps[name].p for name in ("CLAHE", "RandomBrightnessContrast", "HueSaturationValue")} == {0.5}


def test_perspective_moves_all_four_corners_alike():
    """A ramp image shows where the corners come from: E|N(0, s)| inside their own corner, on every side."""
    size, sigma = 200, 0.06
    row = np.linspace(0, 1, size, dtype=np.float32)
    ramps = np.stack([np.tile(row, (size, 1)), np.tile(row[:, None], (1, size)), np.zeros((size, size))], -1)
    step = CornerPerspective(scale=(sigma, sigma), border_mode=cv2.BORDER_REPLICATE, p=1)
    step.set_random_state(np.random.default_rng(0), random.Random(0))
    seen = np.array(
        [step(image=ramps.astype(np.float32))["image"][[0, 0, -1, -1], [0, -1, 0, -1], :2] for _ in range(400)]
    )
    jitter = np.abs(seen - np.array([[0, 0], [1, 0], [0, 1], [1, 1]]))
    expected = sigma * np.sqrt(2 / np.pi)
    np.testing.assert_allclose(jitter.mean(axis=0), expected, atol=0.008)


def test_steps_are_applied_independently_half_of_the_time(monkeypatch):
    applied: dict[str, list[bool]] = {}
    original = A.BasicTransform.should_apply

    def record(self, force_apply=False):
        result = original(self, force_apply)
        applied.setdefault(type(self).__name__, []).append(result)
        return result

    monkeypatch.setattr(A.BasicTransform, "should_apply", record)
    transform, image = get_transforms("distortions", 32), noise(32, 32)
    for seed in range(300):
        augment(transform, image, seed)
    halves = [name for name, step in steps_of("distortions").items() if step.p == 0.5]
    assert len(halves) == 7
    correlations = np.corrcoef([applied[name] for name in halves])
    rates = [np.mean(applied[name]) for name in halves]
    np.testing.assert_allclose(rates, 0.5, atol=0.1)
    assert np.abs(correlations - np.eye(7)).max() < 0.25


def test_small_images_are_padded_by_reflection():
    image = np.zeros((40, 64, 3), np.uint8)
    image[0] = 255  # reflect_101 does not repeat the border row
    padded = get_transforms("default", 64).transforms[1](image=image)["image"]
    assert padded.shape == (64, 64, 3)
    assert (padded[:, 0, 0] == 255).sum() == 1


def test_unknown_variant():
    with pytest.raises(InputError, match=r"unknown 'distortion'.*did you mean 'distortions'"):
        get_transforms("distortion", 64)


def test_import_asks_no_server():
    code = (
        "import socket, warnings; warnings.simplefilter('error')\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import saicinpainting.training.data.datasets\n"
        "import os; assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
    )
    clean = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
