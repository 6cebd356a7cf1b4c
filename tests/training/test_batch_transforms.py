"""Rescaling and crops, against other ways to compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from saicinpainting.losses.distance_weighting import BlurredMask
from saicinpainting.networks.inputs import batch_rng
from saicinpainting.schema import read_section
from saicinpainting.training.batch_transforms import (
    BatchOptions,
    ConstantAreaCrop,
    make_rescale_schedule,
)
from saicinpainting.utils import InputError
from tests.helpers import rand


def options_of(**settings: Any) -> BatchOptions:
    return read_section(BatchOptions, settings, where="training_model")


def batch_of(height: int, width: int) -> dict:
    """Every pixel of `image` names its row, column and place in the batch."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([torch.stack([rows, columns, torch.full_like(rows, i)]) for i in (0, 1)]).float()
    return {"image": image, "mask": (rand(1, 2, 1, height, width) > 0.5).float(), "name": "kept"}


def test_the_random_numbers_are_those_of_seed_step_rank_and_purpose():
    def draw(*key: int, **stream: int) -> list[float]:
        return torch.rand(3, generator=batch_rng(*key, **stream)).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    different = [draw(1, 2, 3), draw(0, 2, 3), draw(1, 0, 3), draw(1, 2, 0), draw(1, 2, 3, stream=1), draw(2, 1, 3)]
    assert len({tuple(numbers) for numbers in different}) == len(different)


def test_crops_have_one_area_and_all_aspect_ratios():
    crop = ConstantAreaCrop()
    windows = [crop.window(512, 640, batch_rng(0, step, 0)) for step in range(400)]
    sizes = np.array([[s.stop - s.start for s in window] for window in windows])
    assert (sizes % 16 == 0).all()
    assert sizes.min() >= 128
    assert sizes.max() <= 512
    # A side rounded up by less than 16 and the other likewise: never too small, at most a strip too large.
    areas = sizes.prod(axis=1)
    assert (areas >= 65536 - sizes.max(axis=1)).all()
    assert (areas < 65536 + 16 * sizes.sum(axis=1)).all()
    assert {tuple(size) for size in sizes} >= {(128, 512), (512, 128), (256, 256)}
    assert max(w[0].stop for w in windows) == 512
    assert 620 < max(w[1].stop for w in windows) <= 640
    assert all(np.ptp([w[axis].start for w in windows]) > 300 for axis in (0, 1))


def test_the_first_side_is_uniform():
    """Of the draws 128, 129 … 512 the lowest gives 128, sixteen each give 144, 160 …: a chi-square test."""
    crop = ConstantAreaCrop(area=16)  # so small that the other side is always 16
    longest = [max(s.stop - s.start for s in crop.window(512, 512, batch_rng(3, step, 0))) for step in range(4000)]
    sides, counts = np.unique(longest, return_counts=True)
    assert sides.tolist() == list(range(128, 513, 16))
    expected = 4000 / 385 * np.array([1] + [16] * 24)
    assert ((counts - expected) ** 2 / expected).sum() < 51.2  # 99.9% of 24 degrees of freedom


def test_image_and_mask_are_cut_alike():
    batch = batch_of(96, 80)
    crop = options_of(const_area_crop_kwargs={"min_size": 32, "max_size": 64, "area": 2048})
    cut = crop.transform(batch, step=5, rng=batch_rng(0, 5, 0))
    top, left = (int(cut["image"][0, channel, 0, 0]) for channel in (0, 1))
    height, width = cut["image"].shape[2:]
    for key in ("image", "mask"):
        assert torch.equal(cut[key], batch[key][:, :, top : top + height, left : left + width])
    assert cut["name"] == "kept"
    assert batch["image"].shape[2:] == (96, 80)  # the argument is left alone
    assert torch.equal(crop.transform(batch, step=5, rng=batch_rng(0, 5, 0))["image"], cut["image"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"round_to_mod": 12}, r"const_area_crop_kwargs: expected round_to_mod a multiple of 8.*round_to_mod=12"),
        ({"min_size": 0}, "0 < min_size <= max_size"),
        ({"min_size": 600}, "0 < min_size <= max_size"),
        ({"area": 300 * 300}, r"0 < area <= min_size \* max_size; got .*area=90000"),
        ({"size": 128}, r"const_area_crop_kwargs\.size: unknown config key; known: .*min_size"),
    ],
)
def test_impossible_crops_are_found_when_the_config_is_read(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        options_of(const_area_crop_kwargs=settings)


def test_images_too_small_for_the_area_are_named_with_the_remedy():
    """And the remedy helps: one less does not."""
    crop = ConstantAreaCrop()
    with pytest.raises(InputError, match=r"images of 256x256 hold no crop of 65536.*set data\.train\.out_size=512"):
        crop.window(256, 256, batch_rng(0, 0, 0))
    with pytest.raises(InputError, match="hold no crop"):
        crop.window(511, 511, batch_rng(0, 0, 0))
    crop.window(512, 512, batch_rng(0, 0, 0))


def test_the_schedule_changes_the_size_at_its_steps():
    options = options_of(rescale_scheduler_kwargs={"kind": "ladder", "start_iters": [10, 20], "values": [64, 128, 256]})
    batch = {"image": rand(1, 2, 3, 128, 128), "mask": (rand(2, 2, 1, 128, 128) > 0.5).float()}
    for step, size in ((0, 64), (9, 64), (10, 128), (19, 128), (20, 256)):
        resized = options.transform(batch, step=step, rng=batch_rng(0, step, 0))
        assert resized["image"].shape == (2, 3, size, size)
        assert resized["mask"].shape == (2, 1, size, size)
        assert set(resized["mask"].unique().tolist()) == {0, 1}
    half = options.transform(batch, step=0, rng=batch_rng(0, 0, 0))
    means = batch["image"].unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))  # bilinear at half the size
    torch.testing.assert_close(half["image"], means)
    assert torch.equal(half["mask"], batch["mask"][:, :, ::2, ::2])


def test_sizes_between_the_ends_of_a_linear_ramp_suit_the_network():
    schedule = make_rescale_schedule(
        {"kind": "linear", "start_value": 64, "end_value": 256, "start_iter": 0, "end_iter": 1000}
    )
    sizes = [schedule.size(step) for step in range(0, 1100, 7)]
    assert all(size % 8 == 0 for size in sizes)
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (64, 256)
    assert abs(schedule.size(500) - 160) <= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ladder", "start_iters": [5], "values": [64, 100]}, "multiples of 8; got 100"),
        ({"kind": "linear", "start_value": 0, "end_value": 256}, "got 0"),
        ({"kind": "cubic"}, "unknown kind 'cubic'"),
        ({"kind": "ladder", "start_iters": [5], "values": [64]}, "1 start_iters need 2 values"),
    ],
)
def test_impossible_schedules_are_found_when_the_config_is_read(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        options_of(rescale_scheduler_kwargs=settings)


def test_rescaling_comes_before_the_crop():
    options = options_of(
        rescale_scheduler_kwargs={"start_iters": [], "values": [32]},
        const_area_crop_kwargs={"min_size": 16, "max_size": 32, "area": 512},
    )
    out = options.transform(batch_of(64, 64), step=0, rng=batch_rng(0, 0, 0))
    assert out["image"].shape[2] * out["image"].shape[3] == 512


def test_without_options_a_batch_stays_as_it_is():
    batch = batch_of(16, 16)
    assert options_of().transform(batch, step=0, rng=batch_rng(0, 0, 0)) is batch


# ---- all of them ----------------------------------------------------------------------------------------------------


def test_options_are_read_under_their_official_names():
    options = options_of(
        rescale_scheduler_kwargs={"start_iters": [], "values": [64]},
        const_area_crop_kwargs={"area": 4096, "min_size": 32},
        distance_weighter_kwargs={"kind": "blur"},
        distance_weighted_mask_for_discr=True,
        fake_fakes_proba=0,
        fake_fakes_generator_kwargs={"aug_proba": 0.5},
    )
    assert options.rescale.size(0) == 64
    assert options.const_area_crop_kwargs == ConstantAreaCrop(area=4096, min_size=32)
    assert options.weigh_mask == BlurredMask()
    assert options.distance_weighted_mask_for_discr


def test_without_options_nothing_changes():
    assert options_of() == BatchOptions()
    assert (BatchOptions().rescale, BatchOptions().weigh_mask, BatchOptions().sizes_vary) == (None, None, False)


def test_fake_fakes_are_refused_where_they_are_asked_for():
    with pytest.raises(InputError, match=r"fake_fakes_proba=0\.2 .*is not supported; set it to 0"):
        options_of(fake_fakes_proba=0.2)
