"""Masks against the golden ones, and what golden values leave open."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from saicinpainting.masks.generators import (
    DumbAreaMaskGenerator,
    MaskRandom,
    OutpaintingMaskGenerator,
    RandomIrregularMaskGenerator,
    RandomRectangleMaskGenerator,
    RandomSuperresMaskGenerator,
)
from saicinpainting.masks.mixed import MixedMaskGenerator, get_mask_generator
from saicinpainting.utils import InputError
from tests.helpers import GOLDEN, golden_values

CASES = json.loads((GOLDEN / "masks.json").read_text())
WIDE = next(case["kwargs"] for case in CASES if case["title"] == "train wide")


def image(height: int, width: int) -> np.ndarray:
    return np.zeros((3, height, width), np.float32)


def digest(mask: np.ndarray) -> str:
    return hashlib.sha256(mask[0].astype(np.uint8).tobytes()).hexdigest()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['title']} {case['seed']}" for case in CASES])
def test_golden_masks_with_passed_and_with_global_random(case):
    generator = get_mask_generator(case["kind"], case["kwargs"])
    img = image(case["size"], case["size"])

    passed = generator(img, rng=MaskRandom.seeded(case["seed"]))
    np.random.seed(case["seed"])
    random.seed(case["seed"])
    drawn_globally = generator(torch.from_numpy(img), iter_i=0, raw_image=None)

    assert passed.shape == (1, case["size"], case["size"])
    assert passed.dtype == np.float32
    assert passed.mean() == pytest.approx(case["area"], abs=1e-6)
    assert digest(passed) == digest(drawn_globally) == case["sha256"]


def test_area_of_the_training_masks_matches_the_golden_distribution():
    expected = golden_values()["mask area of 'train wide', 5000 draws"]
    generator, rng, img = get_mask_generator("mixed", WIDE), MaskRandom.seeded(0), image(256, 256)
    areas = np.array([generator(img, rng=rng).mean() for _ in range(1000)])
    assert areas.mean() == pytest.approx(expected["mean"], abs=0.02)  # three standard errors
    assert areas.std() == pytest.approx(expected["std"], abs=0.015)
    percentiles = np.percentile(areas, [5, 25, 50, 75, 95])
    np.testing.assert_allclose(percentiles, expected["percentiles_5_25_50_75_95"], atol=0.045)


def test_a_ramp_makes_masks_grow_with_the_iteration():
    ramp = {"start_value": 0, "end_value": 1, "start_iter": 0, "end_iter": 100}
    boxes = {"margin": 0, "bbox_min_size": 5, "bbox_max_size": 100, "min_times": 1, "max_times": 5}
    generator = RandomRectangleMaskGenerator(**boxes, ramp_kwargs=ramp)
    img, full = image(128, 128), RandomRectangleMaskGenerator(**boxes)

    at_start = generator(img, iter_i=0, rng=MaskRandom.seeded(1))
    assert at_start.sum() == 25  # one box of exactly bbox_min_size
    at_end = generator(img, iter_i=100, rng=MaskRandom.seeded(1))
    np.testing.assert_array_equal(at_end, full(img, rng=MaskRandom.seeded(1)))

    strokes = RandomIrregularMaskGenerator(min_times=1, max_times=9, max_len=200, max_width=80, ramp_kwargs=ramp)

    def mean_area(iter_i: int) -> float:
        return float(np.mean([strokes(img, iter_i, rng=MaskRandom.seeded(s)).mean() for s in range(50)]))

    assert mean_area(0) < 0.3 * mean_area(100)


def test_ladder_ramps_are_available_too():
    ladder = {"kind": "ladder", "start_iters": [10], "values": [0, 1]}
    boxes = RandomRectangleMaskGenerator(margin=0, bbox_min_size=5, min_times=1, ramp_kwargs=ladder)
    assert boxes(image(128, 128), iter_i=9, rng=MaskRandom.seeded(0)).sum() == 25


def test_boxes_keep_their_margin_on_a_wide_image():
    boxes = RandomRectangleMaskGenerator(margin=10, bbox_min_size=30, bbox_max_size=150, min_times=1, max_times=4)
    rng = MaskRandom.seeded(0)
    union = np.max([boxes(image(100, 300), rng=rng)[0] for _ in range(200)], axis=0)
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    assert (rows.min(), rows.max()) == (10, 89)
    assert columns.min() >= 10
    assert 250 < columns.max() <= 289


def test_boxes_that_cannot_fit_are_refused():
    with pytest.raises(InputError, match="40x40 with margin 10 has no room for boxes of 30 px"):
        RandomRectangleMaskGenerator(min_times=1)(image(40, 40))


@pytest.mark.parametrize("method", ["line", "circle", "square"])
def test_stroke_shapes(method):
    generator = RandomIrregularMaskGenerator(min_times=3, max_times=3, max_width=10, draw_method=method)
    mask = generator(image(64, 96), rng=MaskRandom.seeded(2))
    assert mask.shape == (1, 64, 96)
    assert set(np.unique(mask)) == {0, 1}


def test_unknown_stroke_shape():
    with pytest.raises(InputError, match="unknown 'star'; known: line, circle, square"):
        RandomIrregularMaskGenerator(draw_method="star")


def test_super_resolution_masks_are_periodic_grids():
    generator, rng = RandomSuperresMaskGenerator(min_step=4, max_step=4, min_width=1, max_width=2), MaskRandom.seeded(0)
    for _ in range(20):
        mask = generator(image(32, 48), rng=rng)[0]
        columns, rows = mask.all(axis=0), mask.all(axis=1)
        assert 0 < columns[:4].sum() <= 3  # the last hole of a period wraps to the next one
        np.testing.assert_array_equal(columns[4:-4], columns[8:])
        np.testing.assert_array_equal(rows[4:-4], rows[8:])
        np.testing.assert_array_equal(mask, columns[None] | rows[:, None])


def test_super_resolution_needs_known_pixels():
    with pytest.raises(InputError, match="min_width must lie in"):
        RandomSuperresMaskGenerator(min_step=2, min_width=2)


@pytest.mark.parametrize(
    ("side", "edge"),
    [("left", np.s_[:, 0]), ("top", np.s_[0]), ("right", np.s_[:, -1]), ("bottom", np.s_[-1])],
)
def test_outpainting_covers_a_band_along_the_chosen_side(side, edge):
    probs = {f"{name}_padding_prob": float(name == side) for name in ("left", "top", "right", "bottom")}
    mask = OutpaintingMaskGenerator(**probs, min_padding_percent=0.2, max_padding_percent=0.2)(image(40, 80))[0]
    assert mask[edge].all()
    assert mask.mean() == pytest.approx(0.2)


def test_outpainting_falls_back_to_one_side_when_no_side_is_hit():
    probs = {f"{name}_padding_prob": 1e-9 for name in ("left", "top", "right", "bottom")}
    generator, rng = OutpaintingMaskGenerator(**probs), MaskRandom.seeded(0)
    hit = [generator(image(64, 64), rng=rng)[0] for _ in range(30)]
    assert all(m[0].all() + m[-1].all() + m[:, 0].all() + m[:, -1].all() == 1 for m in hit)


def test_fixed_randomness_follows_the_image_and_nothing_else():
    generator = get_mask_generator("outpainting", {"is_fixed_randomness": True})
    pictures = [np.full((3, 64, 64), i / 9, np.float32) for i in range(8)]
    first = [digest(generator(p, raw_image=p)) for p in pictures]
    again = [digest(generator(p, raw_image=p, rng=MaskRandom.seeded(5))) for p in pictures]
    assert first == again
    assert len(set(first)) > 3
    with pytest.raises(InputError, match="is_fixed_randomness needs the image"):
        generator(pictures[0])


def test_plain_square_in_evaluation_is_centred_on_any_image():
    mask = DumbAreaMaskGenerator(is_training=False)(image(100, 200))[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.mean() == pytest.approx(0.225, abs=0.01)
    assert rows.min() + rows.max() == 99
    assert columns.min() + columns.max() == 199


def test_plain_square_in_training_keeps_its_area_range():
    generator, rng = get_mask_generator("dumb", {"is_training": True}), MaskRandom.seeded(0)
    areas = [generator(image(100, 200), rng=rng).mean() for _ in range(300)]
    assert 0.09 < min(areas) < 0.14
    assert 0.28 < max(areas) < 0.36


def test_inversion_swaps_hole_and_known():
    always = MixedMaskGenerator(**WIDE, invert_proba=1)
    mask = always(image(256, 256), rng=MaskRandom.seeded(0))
    plain = MixedMaskGenerator(**WIDE)(image(256, 256), rng=MaskRandom.seeded(0))
    np.testing.assert_array_equal(mask, 1 - plain)


def test_mixture_follows_its_weights():
    kinds = {
        "irregular_proba": 0,
        "box_proba": 3,
        "box_kwargs": {"margin": 10, "min_times": 1},
        "superres_proba": 1,
        "outpainting_proba": 0,
    }
    generator, rng = MixedMaskGenerator(**kinds), MaskRandom.seeded(0)
    # Boxes leave the border alone, grids never do.
    grids = [generator(image(128, 128), rng=rng)[0, :8].any() for _ in range(400)]
    assert np.mean(grids) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("mixd", {}, r"mask_generator_kind: unknown kind 'mixd'.*did you mean 'mixed'"),
        ("mixed", {"box_prob": 1}, r"data.train.mask_gen_kwargs.box_prob: unknown config key.*'box_proba'"),
        (
            "mixed",
            {"irregular_kwargs": {"max_widht": 3}},
            r"data.train.mask_gen_kwargs.irregular_kwargs.max_widht: unknown config key.*'max_width'",
        ),
        ("mixed", {"where": "x"}, r"data.train.mask_gen_kwargs.where: unknown config key"),
        ("mixed", {"segm_proba": 0.5, "segm_kwargs": {}}, "run a network for every sample; set segm_proba: 0"),
        ("mixed", {"irregular_proba": 0, "box_proba": 0}, "no kind of mask has a probability above 0"),
        ("mixed", {"irregular_kwargs": {"min_times": 9, "max_times": 5}}, "irregular masks: .* got 9 and 5"),
        ("mixed", {"box_kwargs": {"min_times": 4}}, "box masks: expected min_times <= max_times, got 4 and 3"),
        ("dumb", {}, r"data.train.mask_gen_kwargs.is_training: missing config key"),
        ("outpainting", {"min_padding_percent": 0.5}, "min_padding_percent <= max_padding_percent"),
        ("outpainting", {"left_padding_prob": 2}, "must lie in 0..1"),
    ],
)
def test_wrong_settings_are_named(kind, kwargs, message):
    with pytest.raises(InputError, match=message):
        get_mask_generator(kind, kwargs, where="data.train.mask_gen_kwargs")


def test_no_error_offers_an_internal_parameter():
    with pytest.raises(InputError) as error:
        get_mask_generator("mixed", {"x": 1})
    known = str(error.value).split("known: ")[1].split(" (")[0].split(", ")
    assert "segm_kwargs" in known
    assert "where" not in known


def test_settings_of_segmentation_masks_change_nothing_while_there_are_none():
    published = {**WIDE, "segm_proba": 0, "segm_kwargs": {"confidence_threshold": 0.5}}
    masks = [get_mask_generator("mixed", k)(image(64, 64), rng=MaskRandom.seeded(1)) for k in (WIDE, published)]
    np.testing.assert_array_equal(*masks)
