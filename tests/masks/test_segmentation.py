"""Object masks: where moved objects may lie, and torchvision's network behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from saicinpainting.masks.generators import MaskRandom
from saicinpainting.masks.mask_sets import make_mask_set, read_recipe
from saicinpainting.masks.segmentation import ObjectDetector, ObjectHoles, SegmentationMasks, Shape
from saicinpainting.utils import InputError
from tests.helpers import ROOT, photo

SIZE = (128, 192)


def disc(y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


OBJECTS = [disc(40, 50, 24), disc(90, 140, 20)]


def holes(seed: int, objects=OBJECTS, **settings) -> list[np.ndarray]:
    return ObjectHoles(SegmentationMasks(**settings), objects, *SIZE)(MaskRandom.seeded(seed))


def test_holes_keep_the_limits():
    drawn = [hole for seed in range(12) for hole in holes(seed)]
    assert len(drawn) > 30
    for hole in drawn:
        assert hole.shape == SIZE
        assert set(np.unique(hole)) == {0, 1}
        assert hole.mean() > 0.02
        area = min(abs(hole.sum() / thing.sum() - 1) for thing in OBJECTS)
        assert area < 1.25**2 - 1 + 0.1  # scaled by 1 +- .25, a fifth may be hidden
        for thing in OBJECTS:  # tried on a picture of 64 px: a few hundredths more or less
            common = (hole > 0) & thing
            assert common.sum() / thing.sum() <= 0.56
            assert common.sum() / hole.sum() <= 0.56
    assert len({hole.tobytes() for hole in drawn}) == len(drawn)


def test_the_seed_decides():
    first, again, other = (b"".join(h.tobytes() for h in holes(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_holes_of_one_object_lie_apart():
    for seed in range(6):
        drawn = holes(seed, OBJECTS[:1], max_mask_intersection=0.2)
        for i, one in enumerate(drawn):
            for another in [OBJECTS[0], *drawn[:i]]:
                assert ((one > 0) & (another > 0)).sum() / one.sum() <= 0.26


def test_large_objects_give_no_holes():
    assert holes(0, [np.ones(SIZE, bool)]) == []
    assert holes(0, [disc(64, 90, 60)]) == []
    assert holes(0, []) == []


def test_soft_holes_may_cover_other_objects():
    """A wall of objects that leaves no free place: rigid holes find none, soft ones do."""
    small = disc(40, 30, 20)
    wall = ~disc(40, 30, 24)
    assert holes(0, [small, wall], max_foreground_intersection=0.1) == []
    assert holes(0, [small, wall], max_foreground_intersection=0.1, rigidness_mode="soft")


def test_shapes_keep_what_lies_in_the_picture():
    shape = Shape.of(disc(40, 50, 10))
    np.testing.assert_array_equal(shape.drawn(*SIZE), disc(40, 50, 10))
    np.testing.assert_array_equal(Shape(shape.pixels, -10, 40).drawn(*SIZE), disc(0, 50, 10))
    assert Shape(shape.pixels, 500, 0).drawn(*SIZE).sum() == 0
    assert Shape.of(disc(60, 60, 20)).scaled(0.5).pixels.sum() == pytest.approx(disc(60, 60, 10).sum(), rel=0.1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A seeded network that calls every proposal a sure object, filled to its edges, in the real file format."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.bias[1] = 12
        network.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(9)
    path = tmp_path_factory.mktemp("weights") / "maskrcnn.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_network_of_torchvision_finds_objects_that_do_not_overlap(weights):
    detect = ObjectDetector(weights=str(weights), network_size=128)
    masks = detect(Image.fromarray(photo("astronaut.png", 96, 60)))
    assert len(masks) > 2
    assert all(mask.shape == (96, 96) and mask.any() for mask in masks)
    assert np.sum(masks, axis=0).max() == 1
    assert ObjectDetector(weights=str(weights), confidence=1.0, network_size=128)(Image.fromarray(photo())) == []


def test_modes_by_their_official_numbers():
    assert [SegmentationMasks(rigidness_mode=mode).rigidness_mode for mode in (0, 1)] == ["soft", "rigid"]


@pytest.mark.parametrize("size", [256, 512])
def test_the_shipped_recipes_have_the_official_numbers(size):
    made = SegmentationMasks(**read_recipe(ROOT / f"configs/data_gen/segm_{size}.yaml")["mask_generator_kwargs"])
    official = {
        "confidence_threshold": 0.5, "max_object_area": 0.5, "min_mask_area": 0.05, "downsample_levels": 6,
        "num_variants_per_mask": 3, "rigidness_mode": 1, "max_foreground_coverage": 1,
        "max_foreground_intersection": 1, "max_mask_intersection": 0.2, "max_hidden_area": 0.5,
        "max_scale_change": 0.25, "horizontal_flip": True, "max_vertical_shift": 0.3, "position_shuffle": True,
    }  # fmt: skip
    assert made == SegmentationMasks(**official)


def test_sets_are_the_same_for_any_number_of_processes(weights, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        Image.fromarray(photo("astronaut.png", 120, 60 * i)).save(photos / f"{i}.png")
    config = yaml.safe_load((ROOT / "configs/data_gen/segm_256.yaml").read_text())
    config["cropping"]["out_min_size"] = 96
    config["mask_generator_kwargs"] |= {"weights": str(weights), "max_object_area": 0.9, "network_size": 96}
    made = []
    for jobs in (1, 2):
        summary = make_mask_set(config, photos, tmp_path / str(jobs), ext="png", n_jobs=jobs)
        assert summary.masks == 2, summary.skipped
        made.append({f.name: f.read_bytes() for f in (tmp_path / str(jobs)).iterdir()})
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", ["outpainting_256", "outpainting_512"])
def test_outpainting_sets(tmp_path, kind):
    Image.fromarray(photo("astronaut.png", 300)).save(tmp_path / "a.png")
    config = yaml.safe_load((ROOT / f"configs/data_gen/{kind}.yaml").read_text())
    assert make_mask_set(config, tmp_path, tmp_path / "out", ext="png").masks == 1
    mask = np.asarray(Image.open(tmp_path / "out" / "a_crop000_mask000.png")) > 0
    assert 0.05 < mask.mean() <= 0.5
    inside = mask[~mask.all(axis=1)][:, ~mask.all(axis=0)]
    assert not inside.any()  # whole bands at the sides


def test_missing_and_wrong_weights_are_errors(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    image = Image.fromarray(photo())
    with pytest.raises(InputError, match=r"Mask R-CNN for segmentation masks: cannot download .*73cbd019\.pth"):
        ObjectDetector()(image)
    with pytest.raises(InputError, match=r"mask_generator_kwargs\.weights: no file absent"):
        ObjectDetector(weights="absent")(image)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        image.save(tmp_path / "photos" / f"{i}.png")
    recipe = read_recipe(ROOT / "configs" / "data_gen" / "segm_256.yaml")
    with pytest.raises(InputError, match="cannot download"):  # no fault of the images
        make_mask_set(recipe, tmp_path / "photos", tmp_path / "set", ext="png")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: expected weights of torchvision's maskrcnn_resnet50_fpn_v2"):
        ObjectDetector(weights=str(tmp_path / "other.pth"))(image)
    with pytest.raises(InputError, match="rigidness_mode: expected one of soft, rigid"):
        SegmentationMasks(rigidness_mode="hard")
