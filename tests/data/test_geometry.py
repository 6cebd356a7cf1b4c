"""One warp against OpenCV's sequence of warps, and the distributions that its parameters are drawn from."""

from __future__ import annotations

import random
from dataclasses import replace

import cv2
import numpy as np
import pytest

from saicinpainting.data.aug import VARIANTS
from saicinpainting.data.geometry import Geometry, draw_perspective, inverse_affine
from tests.helpers import photo

REFLECT = cv2.BORDER_REFLECT_101


def draw(variant: str, source: tuple[int, int], seed: int, out_size: int = 64) -> Geometry:
    geometry = VARIANTS[variant].geometry
    assert geometry is not None
    return geometry.draw(source, out_size, random.Random(seed))


def one_after_another(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """What the official pipeline does: every step makes a new picture."""
    height, width = geometry.frame
    if geometry.frame != geometry.source:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if geometry.perspective is not None:
        image = cv2.warpPerspective(
            image, np.linalg.inv(geometry.perspective), (width, height), borderMode=cv2.BORDER_REPLICATE
        )
    if geometry.affine is not None:
        image = cv2.warpAffine(image, np.linalg.inv(geometry.affine)[:2], (width, height), borderMode=REFLECT)
    bottom, right = max(geometry.out_size - height, 0), max(geometry.out_size - width, 0)
    image = cv2.copyMakeBorder(
        image, bottom // 2, bottom - bottom // 2, right // 2, right - right // 2, borderType=REFLECT
    )
    if geometry.optical:
        rows, columns = image.shape[:2]
        camera = np.array([[columns, 0, (columns - 1) / 2], [0, rows, (rows - 1) / 2], [0, 0, 1]])
        lens = np.array([geometry.optical, geometry.optical, 0, 0, 0])
        x, y = cv2.initUndistortRectifyMap(camera, lens, None, None, (columns, rows), cv2.CV_32FC1)
        image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=REFLECT)
    crop = image[geometry.top :, geometry.left :][: geometry.out_size, : geometry.out_size]
    return crop[:, ::-1] if geometry.flip else crop


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that loses nothing by being interpolated several times."""
    big = cv2.GaussianBlur(photo("astronaut.png", 400, 60), (0, 0), 4)
    return np.ascontiguousarray(big[:height, :width])


@pytest.mark.parametrize("variant", [name for name, variant in VARIANTS.items() if variant.geometry])
@pytest.mark.parametrize("size", [(200, 260), (90, 64), (50, 40)])
def test_one_warp_shows_what_the_steps_one_after_another_show(variant, size):
    image, kinds = smooth(*size), set()
    for seed in range(40):
        geometry = draw(variant, size, seed)
        kinds.add((geometry.frame, geometry.perspective is None, geometry.affine is None, geometry.optical == 0))
        ours = geometry.warp(image).astype(int)
        theirs = one_after_another(image, geometry).astype(int)
        difference = np.abs(ours - theirs)
        assert ours.shape == (64, 64, 3)
        # Interpolating three times blurs a little; where the perspective's frame ends the mirror has a crease.
        assert difference.mean() < 0.7, seed
        assert np.quantile(difference, 0.99) <= 5, seed
    assert len(kinds) > 3


def test_large_pictures_keep_three_channels(monkeypatch):
    """A copy of all of them for the sake of a crop would cost more than it saves."""
    image, geometry = smooth(200, 260), draw("distortions_scale05_1", (200, 260), 0)
    small = geometry.warp(image)
    monkeypatch.setattr("saicinpainting.data.geometry.FOUR_BYTES_PIXELS", 1000)
    monkeypatch.setattr(cv2, "cvtColor", None)
    np.testing.assert_allclose(geometry.warp(image).astype(int), small, atol=1)


def test_pixels_that_are_not_moved_are_copied():
    image = np.random.RandomState(0).randint(0, 256, (90, 120, 3)).astype(np.uint8)
    crops = [g for g in (draw("default", (90, 120), seed) for seed in range(60)) if g.frame == g.source]
    assert len(crops) > 15
    for geometry in crops:
        np.testing.assert_array_equal(geometry.warp(image), one_after_another(image, geometry))
    assert len({g.left for g in crops}) > 10
    assert 0.2 < np.mean([g.flip for g in crops]) < 0.8


@pytest.mark.parametrize("variant", ["default", "distortions", "distortions_scale03_07"])
def test_labels_move_with_their_image(variant):
    image = smooth(150, 200)
    labels = (image[..., 0] > 100).astype(np.uint8)
    for seed in range(20):
        geometry = draw(variant, (150, 200), seed)
        moved = geometry.warp_labels(labels)
        assert set(np.unique(moved)) <= {0, 1}
        pixels = geometry.warp(image)[..., 0].astype(int)
        clear = np.abs(pixels - 100) > 12
        assert (moved[clear] == (pixels[clear] > 100)).mean() > 0.99


def test_the_lattice_is_as_good_as_every_pixel():
    found = 0
    for seed in range(80):
        geometry = replace(draw("distortions", (400, 500), seed, out_size=256), top=70, left=120)
        if geometry._trace(np.arange(3, dtype=np.float32), folding=False) is None:
            continue
        every = geometry._trace(np.arange(256, dtype=np.float32), folding=True)
        if geometry._trace(np.arange(-8, 264, 8, dtype=np.float32) + 3.5, folding=False) is not None:
            found += 1
            np.testing.assert_allclose(np.stack(geometry._origins), np.stack(every), atol=0.02)
    assert found > 20


@pytest.mark.parametrize(
    ("variant", "sigma", "scale", "rotate", "shear", "share"),
    [
        ("distortions", 0.06, (0.7, 1.3), 40, 0.1, 0.5),
        ("distortions_scale05_1", 0.06, (0.5, 1.0), 40, 0.1, 1),
        ("distortions_scale03_12", 0.06, (0.3, 1.2), 40, 0.1, 1),
        ("distortions_scale03_07", 0.06, (0.3, 0.7), 40, 0.1, 1),
        ("distortions_light", 0.02, (0.8, 1.8), 20, 0.03, 0.5),
    ],
)
def test_parameters_have_the_official_distributions(variant, sigma, scale, rotate, shear, share):
    """Moments of uniform variables: mean (a + b) / 2, deviation (b - a) / sqrt(12)."""
    rng, spec = random.Random(0), VARIANTS[variant].geometry
    assert spec is not None
    drawn = [spec.draw((300, 400), 256, rng) for _ in range(4000)]
    affine = [np.linalg.inv(g.affine)[:2, :2] for g in drawn if g.affine is not None]
    assert len(affine) / len(drawn) == pytest.approx(share, abs=0.03)
    linear = np.array(affine)
    x, y = np.linalg.norm(linear[:, :, 0], axis=1), np.linalg.norm(linear[:, :, 1], axis=1)
    angle = np.degrees(np.arctan2(-linear[:, 1, 0], linear[:, 0, 0]))
    # The angle between the images of the axes is that of both shears together, times cos(2 angle).
    slant = np.degrees((linear[:, :, 0] * linear[:, :, 1]).sum(1) / (x * y)) / np.cos(2 * np.radians(angle))
    spread = scale[1] - scale[0]
    for values in (x, y):
        assert values.mean() == pytest.approx(sum(scale) / 2, abs=0.03 * spread)
        assert values.std() == pytest.approx(spread / 12**0.5, rel=0.05)
        assert (values.min(), values.max()) == pytest.approx(scale, abs=0.01 * spread + 0.004)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.08  # drawn independently
    assert angle.mean() == pytest.approx(0, abs=0.05 * rotate)
    assert angle.std() == pytest.approx(2 * rotate / 12**0.5, rel=0.05)
    assert np.abs(angle).max() == pytest.approx(rotate, rel=0.01)
    assert slant.std() == pytest.approx(2**0.5 * 2 * shear / 12**0.5, rel=0.08)
    perspective = [g.perspective for g in drawn if g.perspective is not None]
    assert len(perspective) / len(drawn) == pytest.approx(0.5, abs=0.03)
    corner = np.array([m[:2, 2] / m[2, 2] for m in perspective]) / [400, 300]  # where the upper left corner comes from
    assert corner.mean() == pytest.approx(sigma / 2 * (2 / np.pi) ** 0.5, rel=0.06)  # E|N(0, s)|, s uniform
    assert corner.min() >= 0


@pytest.mark.parametrize("variant", ["distortions", "distortions_scale03_07"])
def test_lens_distortion_is_drawn_half_of_the_time(variant):
    k = np.array([draw(variant, (300, 400), seed).optical for seed in range(2000)])
    assert (k != 0).mean() == pytest.approx(0.5, abs=0.04)
    assert k[k != 0].std() == pytest.approx(0.1 / 12**0.5, rel=0.06)
    assert np.abs(k).max() <= 0.05


def test_default_rescales_isotropically_half_of_the_time():
    frames = np.array([draw("default", (500, 1000), seed).frame for seed in range(1000)])
    scale = frames[:, 0] / 500
    np.testing.assert_allclose(frames[:, 1] / 1000, scale, atol=0.002)
    changed = scale[scale != 1]
    assert len(changed) / len(scale) == pytest.approx(0.5, abs=0.05)
    assert (changed.min(), changed.max()) == pytest.approx((0.8, 1.2), abs=0.01)
    assert changed.mean() == pytest.approx(1, abs=0.02)


def test_crops_reach_every_place():
    drawn = [draw("default", (66, 70), seed) for seed in range(400)]
    places = {(g.top, g.left) for g in drawn if g.frame == (66, 70)}
    assert {top for top, _ in places} == {0, 1, 2}
    assert {left for _, left in places} == set(range(7))


def test_perspective_moves_all_four_corners_inwards():
    rng = random.Random(0)
    shown = np.array(
        [
            cv2.perspectiveTransform(np.array([[[0, 0], [200, 0], [200, 100], [0, 100]]], np.float64), matrix)[0]
            for matrix in (draw_perspective((100, 200), 0.06, rng) for _ in range(2000))
        ]
    )
    jitter = np.abs(shown - [[0, 0], [200, 0], [200, 100], [0, 100]]) / [200, 100]
    np.testing.assert_allclose(jitter.mean(axis=0), 0.06 * np.sqrt(2 / np.pi), rtol=0.08)
    assert shown.min() >= 0
    assert (shown <= [200.001, 100.001]).all()


def test_affine_map_agrees_with_albumentations():
    from albumentations.augmentations.geometric import functional

    theirs = functional.create_affine_transformation_matrix(
        {"x": 0, "y": 0}, {"x": 3, "y": -2}, {"x": 0.8, "y": 1.2}, 25, functional.center((90, 130))
    )
    ours = inverse_affine((90, 130), scale=(0.8, 1.2), rotate=25, shear=(3, -2))
    np.testing.assert_allclose(ours @ theirs, np.eye(3), atol=1e-12)
