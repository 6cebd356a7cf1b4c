"""Refinement against golden values, kornia's image operations, and the cases the official code fails on."""

from __future__ import annotations

import itertools

import cv2
import kornia
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saicinpainting.inference import refinement
from saicinpainting.inference.refinement import refine_predict
from saicinpainting.io.device import PRECISIONS
from saicinpainting.utils import InputError
from tests.helpers import golden_arrays, golden_values, rand
from tests.samples import Inpainter, golden_picture, in_float32, picture


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


def test_a_folded_generator_on_two_devices_is_golden_too(settings):
    inpainter = Inpainter("ffc", folded=True)
    result = refine_predict(golden_picture(), inpainter, **settings, device=["cpu", "cpu:0"])
    assert (result - golden_arrays()["refine.refined"]).abs().max() < 1e-6


LOCAL = {"resnet_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}}
GLOBAL = {"resnet_conv_kwargs": {"ratio_gin": 1, "ratio_gout": 1, "enable_lfu": False}}


@pytest.mark.parametrize(
    ("case", "overrides"),
    [
        *((case, {}) for case in ("ffc_lfu", "ffc_gated", "ffc_posenc", "ffc_scaled", "global", "multidilated")),
        *(("ffc", overrides) for overrides in (LOCAL, GLOBAL, {"norm_layer": "in", "up_norm_layer": "in"})),
        ("ffc", {"out_ffc": True, "out_ffc_kwargs": LOCAL["resnet_conv_kwargs"]}),
    ],
)
def test_folding_changes_no_refinement(monkeypatch, case, overrides):
    batch, few = picture(160, 192, (slice(32, 128), slice(32, 160))), {"n_iters": 4, "min_side": 80}
    kept = []

    def checkpoint(part, features, **kwargs):
        kept.append(len(part))
        return real(part, features, **kwargs)

    real = refinement.checkpoint
    monkeypatch.setattr(refinement, "checkpoint", checkpoint)
    results = []
    for folded in (False, True):
        results.append(refine_predict(batch, Inpainter(case, folded=folded, **overrides), **few))
    assert (results[0] - results[1]).abs().max() < 1e-6
    plain = refine_predict(batch, Inpainter(case, **overrides), max_scales=1)
    assert (results[0] - plain).abs().max() > 1e-4
    # The folded generator is computed again part by part as the original is: blocks, doublings and the last layers.
    assert len(kept) % 2 == 0
    assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]
    assert kept[0] == 1
    assert len(kept) >= 2 * 3 * (2 + 3 + 1)


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


def test_each_picture_of_a_batch_is_refined_as_it_is_alone(ffc):
    """Wide, narrow, absent and different holes; padded, and above the budget."""
    holes = [(slice(20, 80), slice(30, 100)), (slice(40, 45), slice(10, 120)), (slice(0, 0), slice(0, 0))]
    alone = [picture(99, 131, hole) for hole in holes]
    for i, one in enumerate(alone):
        one["image"] = one["image"].roll(17 * i, dims=-1)
    together = {
        "image": F.pad(torch.cat([one["image"] for one in alone]), (0, 5, 0, 5), value=0.7),
        "mask": F.pad(torch.cat([one["mask"] for one in alone]), (0, 5, 0, 5), value=1),
        "unpad_to_size": [torch.tensor([99] * 3), torch.tensor([131] * 3)],
    }
    for settings in ({"n_iters": 5, "min_side": 48}, {"n_iters": 2, "min_side": 36, "px_budget": 72 * 96}):
        results = refine_predict(together, ffc, **settings)
        assert len(results) == 3
        for result, one in zip(results, alone, strict=True):
            torch.testing.assert_close(result[None], refine_predict(one, ffc, **settings), rtol=0, atol=1e-9)


# ---- small holes ---------------------------------------------------------------------------------------------------


def five_pixels() -> dict:
    return in_float32(picture(96, 128, (slice(40, 45), slice(60, 65))))


@pytest.mark.parametrize("folded", [False, True])
def test_a_hole_of_five_pixels_stays_near_the_plain_prediction(folded):
    inpainter, batch = Inpainter("ffc", folded=folded).float(), five_pixels()
    result = refine_predict(batch, inpainter, min_side=48)
    plain = refine_predict(batch, inpainter, max_scales=1)
    assert result.isfinite().all()
    assert ((result >= 0) & (result <= 1)).all()
    assert torch.equal(result * (1 - batch["mask"]), batch["image"] * (1 - batch["mask"]))
    # Nothing is left of the hole when its edge is taken off at the coarser scale: only the known pixels pull.
    assert refinement._eroded_half(batch["mask"]).sum() == 0
    assert 0 < (result - plain).abs().max() < 0.1


class Interpolator(nn.Module):
    """A generator that fills holes with what is around them: features are means of the known pixels nearby."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def encode(self, x):
        known = 1 - x[:, 3:]
        sums, counts = (F.avg_pool2d(t, 24, stride=8, padding=8) for t in (x[:, :3], known))
        return sums / counts.clamp(min=1e-6)

    def decode(self, features):
        return F.interpolate(features, scale_factor=8, mode="bilinear", align_corners=False)


def test_a_hole_of_five_pixels_is_filled_like_its_surroundings():
    inpainter, batch = nn.Module(), five_pixels()
    inpainter.generator = Interpolator()
    batch["image"] = F.interpolate(rand(8, 1, 3, 3, 4), size=(96, 128), mode="bicubic", align_corners=False).clamp(0, 1)
    result = refine_predict(batch, inpainter, min_side=48)
    plain = refine_predict(batch, inpainter, max_scales=1)
    inside = batch["mask"].expand_as(result) > 0
    assert ((result >= 0) & (result <= 1)).all()
    # The picture is smooth, so what fits better around the hole fits better in it.
    refined, unrefined = ((one - batch["image"])[inside].abs() for one in (result, plain))
    assert refined.max() < 0.05
    assert refined.mean() < 0.5 * unrefined.mean()


# ---- precision -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> dict:
    return {"n_iters": 4, "min_side": 96}


@pytest.fixture(scope="module")
def in_full(short) -> tuple[torch.Tensor, torch.Tensor]:
    """The golden picture refined in float32 and what refinement changed, inside the hole."""
    inpainter, batch = Inpainter("ffc", folded=True).float(), in_float32(golden_picture())
    refined = refine_predict(batch, inpainter, **short)
    return refined, refined - refine_predict(batch, inpainter, max_scales=1)


@pytest.mark.parametrize(("precision", "decibels"), [("bf16", 50), ("fp16", 58)])
def test_half_precision_is_near(monkeypatch, short, in_full, precision, decibels):
    """All fifteen steps at three scales give 46 dB in bf16, 52 dB in fp16 and 60 dB in fp32, against float64."""
    inpainter, batch = Inpainter("ffc", folded=True).float(), in_float32(golden_picture())
    computed, given = set(), set()
    inpainter.generator.model[-2].register_forward_hook(lambda _, __, y: computed.add(y.dtype))
    real = refinement._mean_distance
    monkeypatch.setattr(refinement, "_mean_distance", lambda *ab: given.update(t.dtype for t in ab) or real(*ab))
    result = refine_predict(batch, inpainter, **short, precision=precision)
    assert result.dtype == torch.float32
    assert computed == {PRECISIONS[precision]}
    assert given == {torch.float32}
    refined, change = in_full
    inside = batch["mask"].expand_as(result) > 0
    error = (result - refined)[inside].square().mean()
    assert 0 < error < 10 ** (-decibels / 10)
    # In units of what refinement does.
    assert error < 0.2 * change[inside].square().mean()


def test_float16_finds_its_scale(monkeypatch):
    """One that is much too large is made smaller; another picture's scale, and result, are left alone."""
    inpainter, few = Inpainter("ffc", folded=True).float(), {"n_iters": 3, "min_side": 32, "precision": "fp16"}
    one = in_float32(picture(64, 64, (slice(8, 56), slice(8, 56))))
    expected = refine_predict(one, inpainter, **few)
    monkeypatch.setattr(refinement, "FIRST_SCALE", 2.0**36)
    torch.testing.assert_close(refine_predict(one, inpainter, **few), expected, rtol=0, atol=0.02)
    scale = torch.tensor([2.0**36, 2.0**10])
    leaf = torch.ones(2, 1, 4, 4, requires_grad=True)
    scale = refinement._set_gradients([leaf], lambda: leaf.half().square().sum(dim=(1, 2, 3)).float(), scale)
    assert scale.tolist() == [2.0**12, 2.0**10]
    assert torch.equal(leaf.grad, torch.full_like(leaf, 2))


def test_numbers_that_are_not_finite_are_an_error():
    inpainter = Inpainter("global").float()
    inpainter.generator.model[-2].weight.data.fill_(torch.nan)
    batch = in_float32(picture(64, 64, (slice(8, 56), slice(8, 56))))
    with pytest.raises(InputError, match="not finite; with precision=fp16 set bf16 or fp32"):
        refine_predict(batch, inpainter, min_side=32, precision="fp16")
    with pytest.raises(InputError, match="precision: unknown value 'half'; known: bf16, fp16, fp32"):
        refine_predict(batch, inpainter, precision="half")


def test_budget_shrinks_the_picture(ffc):
    batch = picture(96, 160, (slice(40, 41), slice(80, 81)))
    result = refine_predict(batch, ffc, px_budget=48 * 80, n_iters=1)
    assert result.shape == (1, 3, 48, 80)
    image, mask = refinement._fit_into_budget(batch["image"], batch["mask"], 48 * 80)
    torch.testing.assert_close(image, F.interpolate(batch["image"], scale_factor=0.5, mode="bilinear"))
    assert mask.sum() == 1


def test_batches_that_cannot_be_refined(ffc):
    batch = golden_picture()
    two = {key: torch.cat([batch[key]] * 2) for key in ("image", "mask")}
    sizes = [torch.tensor([192, 190]), torch.tensor([320, 320])]
    with pytest.raises(InputError, match=r"one size in a batch, got heights \[190, 192\] and widths \[320\]"):
        refine_predict({**two, "unpad_to_size": sizes}, ffc)
    del batch["unpad_to_size"]
    with pytest.raises(InputError, match="pad_out_to_modulo"):
        refine_predict(batch, ffc)
