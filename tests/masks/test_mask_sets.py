"""Making evaluation sets: cropping around holes, limits, and the shipped configs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from saicinpainting.masks.generators import MaskRandom
from saicinpainting.masks.mask_sets import MaskSetMaker, make_mask_set, propose_random_square_crop
from saicinpainting.utils import InputError

CONFIGS = Path(__file__).parents[2] / "configs" / "data_gen"
BOXES = {"irregular_proba": 0, "box_proba": 1, "variants_n": 3}
SMALL_BOX = {"margin": 0, "bbox_min_size": 8, "bbox_max_size": 16, "min_times": 1, "max_times": 1}


def config(**changes) -> dict:
    base = {
        "generator_kind": "random",
        "mask_generator_kwargs": {**BOXES, "box_kwargs": SMALL_BOX},
        "max_masks_per_image": 1,
        "cropping": {"out_min_size": 64, "handle_small_mode": "upscale"},
        "max_tamper_area": 0.5,
    }
    return {**base, **changes}


def picture(width: int, height: int) -> Image.Image:
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.tile(row[None, :, None], (height, 1, 3)))


def propose(size: tuple[int, int] = (120, 80), seed: int = 0, **changes):
    return MaskSetMaker(**config(**changes)).propose(picture(*size), MaskRandom.seeded(seed))


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (40, 40)])
def test_square_crops_stay_inside_and_meet_the_hole(shape):
    rng = MaskRandom.seeded(0)
    for _ in range(300):
        mask = np.zeros(shape, np.float32)
        y, x = rng.numpy.randint(0, shape[0] - 10), rng.numpy.randint(0, shape[1] - 10)
        mask[y : y + 10, x : x + 10] = 1
        left, top, right, bottom = propose_random_square_crop(mask, min_overlap=1, rng=rng)
        assert (right - left, bottom - top) == (40, 40)
        assert left >= 0
        assert top >= 0
        assert right <= shape[1]
        assert bottom <= shape[0]
        assert mask[top:bottom, left:right].any()


def test_square_crop_start_has_the_documented_range():
    mask = np.zeros((20, 100), np.float32)
    mask[5:9, 50:61] = 1  # spans 50..60
    rng = MaskRandom.seeded(0)
    starts = {propose_random_square_crop(mask, min_overlap=1, rng=rng)[0] for _ in range(3000)}
    assert (min(starts), max(starts)) == (40, 59)  # randint(60 - 20, 60)
    starts = {propose_random_square_crop(mask, min_overlap=0.5, rng=rng)[0] for _ in range(3000)}
    assert (min(starts), max(starts)) == (35, 54)


@pytest.mark.parametrize("size", [(120, 80), (30, 50), (64, 64), (640, 333)])
def test_images_come_out_at_the_size_of_the_set(size):
    [(image, mask)] = propose(size)
    assert image.size == (64, 64)
    assert mask.shape == (64, 64)
    assert 0 < mask.mean() <= 0.5


def test_without_square_crop_the_whole_image_stays():
    cropping = {"out_min_size": 64, "out_square_crop": False}
    [(image, mask)] = propose((120, 80), cropping=cropping)
    assert image.size == (96, 64)
    assert mask.shape == (64, 96)


def test_small_images_are_dropped_where_asked():
    cropping = {"out_min_size": 64, "handle_small_mode": "drop"}
    with pytest.raises(InputError, match="100x60 pixels, below 64"):
        propose((100, 60), cropping=cropping)
    assert propose((100, 64), cropping=cropping)


def test_area_limit_holds_and_gives_up_in_words():
    areas = [mask.mean() for seed in range(30) for _, mask in propose(seed=seed, max_tamper_area=0.03)]
    assert max(areas) <= 0.03
    assert len(areas) == 30
    with pytest.raises(InputError, match="no mask of 30 kept max_tamper_area"):
        propose(max_tamper_area=0.001)


def test_number_of_masks():
    assert len(propose(max_masks_per_image=2)) == 2
    assert len(propose(max_masks_per_image=9)) <= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator_kind": "segmentatio"}, "unknown kind 'segmentatio'; .*'segmentation'"),
        ({"generator_kind": "other"}, "generator_kind: unknown kind 'other'; known: random"),
        ({"cropping": {"out_min": 3}}, r"cropping\.out_min: unknown config key.*'out_min_size'"),
        ({"cropping": {"out_min_size": 3, "handle_small_mode": "up"}}, "expected drop or upscale, got 'up'"),
        ({"mask_generator_kwargs": {"box_prob": 1}}, r"mask_generator_kwargs\.box_prob: unknown config key"),
        (
            {"mask_generator_kwargs": {"box_kwargs": {"size": 1}}},
            r"mask_generator_kwargs\.box_kwargs\.size: unknown config key",
        ),
        ({"max_masks": 3}, r"config\.max_masks: unknown config key.*'max_masks_per_image'"),
    ],
)
def test_wrong_settings_are_named(changes, message, tmp_path):
    picture(80, 80).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=message):
        make_mask_set(config(**changes), tmp_path, tmp_path / "out")


# Strokes: least, most, width, length; boxes: weight, margin, least, most side, most boxes.
SHIPPED = {
    "random_thin_512": ((4, 70, 20, 100), None),
    "random_medium_512": ((4, 10, 100, 200), (0.3, 0, 30, 150, 5)),
    "random_thick_512": ((1, 5, 250, 450), (0.3, 10, 30, 300, 4)),
    "random_thin_256": ((4, 50, 10, 40), None),
    "random_medium_256": ((4, 5, 50, 100), (0.3, 0, 10, 50, 5)),
    "random_thick_256": ((1, 5, 100, 200), (0.3, 10, 30, 150, 3)),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs(name):
    strokes, boxes = SHIPPED[name]
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    side = int(name.rsplit("_", 1)[1])
    masks = settings["mask_generator_kwargs"]
    irregular = masks["irregular_kwargs"]
    assert tuple(irregular[k] for k in ("min_times", "max_times", "max_width", "max_len")) == strokes
    if boxes is None:
        assert masks["box_proba"] == 0
    else:
        box = masks["box_kwargs"]
        drawn = tuple(box[k] for k in ("margin", "bbox_min_size", "bbox_max_size", "max_times"))
        assert (masks["box_proba"], *drawn) == boxes
    [(image, mask)] = MaskSetMaker(**settings).propose(picture(300, 200), MaskRandom.seeded(0))
    assert image.size == (side, side)
    assert 0 < mask.mean() <= 0.5


def test_a_photograph_replaced_by_one_of_as_many_bytes_is_noticed(tmp_path):
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    picture(80, 80).save(photographs / "a.bmp")
    make_mask_set(config(), photographs, out, ext="auto")
    make_mask_set(config(), photographs, out, ext="auto")
    settings = json.loads((out / ".mask_set.json").read_text())
    size = (photographs / "a.bmp").stat().st_size
    picture(80, 80).transpose(Image.Transpose.ROTATE_90).save(photographs / "a.bmp")
    assert (photographs / "a.bmp").stat().st_size == size
    with pytest.raises(InputError, match="holds a mask set made of something else"):
        make_mask_set(config(), photographs, out, ext="auto")
    del settings["photographs_sha256"]  # as a version that did not note it left it
    (out / ".mask_set.json").write_text(json.dumps(settings))
    make_mask_set(config(), photographs, out, ext="auto")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.slow
def test_an_image_that_would_come_to_be_too_long_is_skipped_and_named(tmp_path, n_jobs):
    for name, size in {"a.png": (80, 70), "thin.png": (1, 20000), "wide.png": (20000, 1)}.items():
        picture(*size).save(tmp_path / name)
    picture(80, 70).save(tmp_path / os.fsdecode(b"caf\xe9.png"))
    summary = make_mask_set(config(), tmp_path, tmp_path / "out", ext="png", n_jobs=n_jobs)
    assert (summary.images, summary.masks) == (2, 2)
    assert [reason.partition(":")[0] for reason in summary.skipped] == ["thin.png", "wide.png"]
    assert os.fsdecode(b"caf\xe9_crop000_mask000.png") in os.listdir(tmp_path / "out")


def test_what_a_failing_disk_does_not_give_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        picture(80, 70).save(tmp_path / "in" / name)
    read_bytes = Path.read_bytes

    def failing(path):
        if path.name == "b.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(InputError, match=r"b\.png: Input/output error"):
        make_mask_set(config(), tmp_path / "in", tmp_path / "out", ext="png")
    monkeypatch.undo()
    summary = make_mask_set(config(), tmp_path / "in", tmp_path / "out", ext="png")
    assert (summary.images, summary.skipped) == (2, [])
