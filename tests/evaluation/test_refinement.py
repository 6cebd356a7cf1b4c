"""Refinement against golden values, kornia's image operations, and the cases the official code fails on."""

from __future__ import annotations

import itertools

import cv2
import kornia
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saicinpainting.evaluation import refinement
from saicinpainting.evaluation.refinement import refine_predict
from saicinpainting.training.modules import make_generator
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_arrays, golden_values, rand


class Inpainter(nn.Module):
    def __init__(self, case: str) -> None:
        super().__init__()
        self.generator = fill(make_generator(**golden_values()[case])).double()


def picture(height: int, width: int, hole: tuple[slice, slice]) -> dict:
    small = rand(8, 1, 3, 12, 20).double()
    image = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    mask = torch.zeros(1, 1, height, width, dtype=torch.float64)
    mask[:, :, hole[0], hole[1]] = 1
    return {"image": image, "mask": mask, "unpad_to_size": [torch.tensor([height]), torch.tensor([width])]}


def golden_picture() -> dict:
    return picture(192, 320, (slice(48, 144), slice(80, 240)))


@pytest.fixture(scope="module")
def ffc() -> Inpainter:
    return Inpainter("ffc").train()


@pytest.fixture(scope="module")
def settings() -> dict:
    return {key: value for key, value in golden_values()["refine"].items() if key != "pyramid"}


def test_refined_and_plain_are_golden_and_leave_the_model_as_it_was(ffc, settings):
    before = {key: value.clone() for key, value in ffc.state_dict().items()}
    refined = refine_predict(golden_picture(), ffc, **settings, gpu_ids="None")
    plain = refine_predict(golden_picture(), ffc, **{**settings, "max_scales": 1})
    for name, result in [("refine.refined", refined), ("refine.plain", plain)]:
        assert result.dtype == torch.float64
        assert (result - golden_arrays()[name]).abs().max() < 1e-6
    # The reference is worth something only if refinement changes more than the tolerance.
    assert (refined - plain).abs().max() > 1e-3
    assert all(torch.equal(value, before[key]) for key, value in ffc.state_dict().items())
    assert all(module.training for module in ffc.modules())
    assert all(p.requires_grad and p.grad is None for p in ffc.parameters())


def test_no_grad_around_it_changes_nothing(ffc):
    batch, few = picture(96, 128, (slice(24, 72), slice(24, 104))), {"n_iters": 3, "min_side": 48}
    expected = refine_predict(batch, ffc, **few)
    with torch.no_grad():
        assert torch.equal(refine_predict(batch, ffc, **few), expected)


def test_pyramid_has_the_golden_sizes(settings):
    batch = golden_picture()
    levels = refinement._pyramid(batch["image"], batch["mask"], min_side=48, max_scales=3)
    assert [list(image.shape[-2:]) for image, _ in levels] == golden_values()["refine"]["pyramid"]
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for _, mask in levels)
    for (_, coarse), (_, fine) in itertools.pairwise(levels):
        # A coarse pixel with any hole in reach of the blur is hole, so the hole never shrinks.
        assert coarse.sum() * 4 > fine.sum()


@pytest.mark.parametrize(
    ("side", "min_side", "max_scales", "expected"),
    [(45, 32, 3, 1), (46, 32, 3, 2), (90, 32, 3, 2), (91, 32, 3, 3), (300, 32, 3, 3), (300, 32, 9, 4), (8, 32, 3, 1)],
)
def test_number_of_scales(side, min_side, max_scales, expected):
    image = torch.zeros(1, 1, side, side + 7)
    assert len(refinement._pyramid(image, image, min_side=min_side, max_scales=max_scales)) == expected


@pytest.mark.parametrize("size", [(33, 50), (64, 41)])
def test_halving_equals_kornia(size):
    image = rand(1, 2, 3, *size).double()
    blurred = kornia.filters.gaussian_blur2d(image, (5, 5), (1.0, 1.0))
    expected = kornia.geometry.transform.resize(
        blurred, (size[0] // 2, size[1] // 2), interpolation="bilinear", align_corners=False
    )
    torch.testing.assert_close(refinement._halve(image), expected, rtol=0, atol=1e-12)


def test_eroded_half_equals_kornia():
    hole = (F.interpolate(rand(2, 1, 1, 6, 8), size=(121, 160), mode="bilinear") > 0.4).double()
    half = (F.interpolate(hole, size=(60, 80), mode="bilinear", align_corners=False) > 1 - 1e-8).double()
    kernel = torch.from_numpy(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))).double()
    expected = kornia.morphology.erosion(half, kernel)
    assert 0 < expected.sum() < half.sum()
    assert torch.equal(refinement._eroded_half(hole), expected)


def test_sides_that_are_no_multiple_and_padding_of_the_data_set(ffc):
    """A picture padded by the data set gives what the same picture gives without padding."""
    batch = picture(99, 131, (slice(20, 80), slice(30, 100)))
    few = {"n_iters": 2, "min_side": 48}
    expected = refine_predict(batch, ffc, **few)
    assert expected.shape == (1, 3, 99, 131)
    padded = {
        "image": F.pad(batch["image"], (0, 5, 0, 5), value=0.7),
        "mask": F.pad(batch["mask"], (0, 5, 0, 5), value=1),
        "unpad_to_size": (99, 131),
    }
    assert torch.equal(refine_predict(padded, ffc, **few), expected)
    known = (batch["mask"] == 0).expand_as(expected)
    assert torch.equal(expected[known], batch["image"][known])


@pytest.mark.parametrize(
    "hole",
    [(slice(40, 46), slice(10, 120)), (slice(0, 96), slice(0, 128)), (slice(0, 0), slice(0, 0))],
    ids=["narrower than the kernel", "everything", "nothing"],
)
def test_empty_terms_do_not_turn_into_nan(ffc, hole):
    batch = picture(96, 128, hole)
    result = refine_predict(batch, ffc, n_iters=3, min_side=48)
    assert result.isfinite().all()
    outside = (batch["mask"] == 0).expand_as(result)
    assert torch.equal(result[outside], batch["image"][outside])


class PackedFeatures(nn.Module):
    """An FFC generator whose local and global features travel as one tensor."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def encode(self, x):
        local, spectral = self.generator.encode(x)
        self.n_local = local.shape[1]
        return torch.cat([local, spectral], dim=1)

    def decode(self, features):
        return self.generator.decode((features[:, : self.n_local], features[:, self.n_local :]))


def test_one_tensor_of_features_is_refined_as_a_tuple_is(ffc):
    """Adam treats each number by itself, so it makes no difference which tensor holds it."""
    batch = picture(96, 128, (slice(24, 72), slice(24, 104)))
    packed = nn.Module()
    packed.generator = PackedFeatures(ffc.generator)
    few = {"n_iters": 4, "min_side": 48}
    torch.testing.assert_close(
        refine_predict(batch, packed, **few), refine_predict(batch, ffc, **few), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("case", ["global", "multidilated"])
def test_refinement_brings_the_halved_prediction_nearer_to_the_coarser_result(case):
    inpainter = Inpainter(case)
    batch = picture(144, 160, (slice(24, 120), slice(24, 136)))
    coarse_image, coarse_mask = refinement._pyramid(batch["image"], batch["mask"], min_side=72, max_scales=2)[0]
    coarse = {"image": coarse_image, "mask": coarse_mask, "unpad_to_size": coarse_image.shape[-2:]}
    target = refine_predict(coarse, inpainter, max_scales=1)
    inside = refinement._eroded_half(batch["mask"])

    def distance(n_iters: int) -> float:
        result = refine_predict(batch, inpainter, n_iters=n_iters, min_side=72, lr=0.05)
        return refinement._mean_distance(refinement._halve(result), target, inside).item()

    assert distance(10) < 0.95 * distance(1)


def test_budget_shrinks_the_picture(ffc):
    batch = picture(96, 160, (slice(40, 41), slice(80, 81)))
    result = refine_predict(batch, ffc, px_budget=48 * 80, n_iters=1)
    assert result.shape == (1, 3, 48, 80)
    image, mask = refinement._fit_into_budget(batch["image"], batch["mask"], 48 * 80)
    torch.testing.assert_close(image, F.interpolate(batch["image"], scale_factor=0.5, mode="bilinear"))
    assert mask.sum() == 1


def test_device_may_be_named(ffc):
    batch = picture(48, 48, (slice(8, 40), slice(8, 40)))
    assert torch.equal(refine_predict(batch, ffc, device="cpu"), refine_predict(batch, ffc))


@pytest.mark.parametrize(
    ("gpu_ids", "match"),
    [("0,1", "several GPUs is not built"), ("first", "number of a GPU"), ("99,", "GPU 99 asked for"), (99, "GPU 99")],
)
def test_gpu_ids_that_cannot_be_served(ffc, gpu_ids, match):
    with pytest.raises(InputError, match=match):
        refine_predict(golden_picture(), ffc, gpu_ids=gpu_ids)


def test_batches_that_cannot_be_refined(ffc):
    batch = golden_picture()
    with pytest.raises(InputError, match="one picture at a time, got 2"):
        refine_predict({**batch, "image": batch["image"].repeat(2, 1, 1, 1)}, ffc)
    del batch["unpad_to_size"]
    with pytest.raises(InputError, match="pad_out_to_modulo"):
        refine_predict(batch, ffc)
