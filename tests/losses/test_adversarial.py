"""Adversarial losses against golden values and closed forms."""

from __future__ import annotations

from math import exp, log1p

import pytest
import torch
import torch.nn.functional as F

from saicinpainting.losses.adversarial import make_discrim_loss, r1_penalty
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, rand

GOLDEN_SETTINGS = {"weight": 10, "mask_as_fake_target": True, "allow_scale_mask": True}


def golden_scores(dtype=torch.float32):
    from saicinpainting.networks import make_discriminator

    discriminator = fill(make_discriminator(**golden_values()["discriminator"])).eval().to(dtype)
    real = rand(5, 2, 3, 64, 64).to(dtype).requires_grad_(True)
    return {
        "real_batch": real,
        "discr_real_pred": discriminator(real)[0],
        "discr_fake_pred": discriminator(rand(4, 2, 3, 64, 64).to(dtype))[0],
        "mask": (rand(6, 2, 1, 64, 64) > 0.6).to(dtype),
    }


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "r1.generator"),
        (
            {"extra_mask_weight_for_gen": 2, "mask_scale_mode": "maxpool"},
            "r1.generator(extra_mask_weight_for_gen=2, maxpool)",
        ),
    ],
)
def test_r1_generator_is_golden(settings, name):
    scores = golden_scores()
    loss = make_discrim_loss("r1", **GOLDEN_SETTINGS, **settings)
    total, logs = loss.generator_loss(discr_fake_pred=scores["discr_fake_pred"], mask=scores["mask"])
    torch.testing.assert_close(total.item(), golden_values()["losses"][name], rtol=1e-5, atol=0)
    assert logs == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"gp_coef": 0.001}, "r1.discriminator(gp_coef=0.001)"),
        ({"gp_coef": 5, "mask_scale_mode": "maxpool"}, "r1.discriminator(gp_coef=5, maxpool)"),
    ],
)
def test_r1_discriminator_is_golden(settings, name, dtype):
    total, logs = make_discrim_loss("r1", **GOLDEN_SETTINGS, **settings).discriminator_loss(**golden_scores(dtype))
    expected = golden_values()["losses"]
    assert total.dtype == dtype
    torch.testing.assert_close(total.item(), expected[name], rtol=1e-5, atol=0)
    torch.testing.assert_close(logs["discr_real_gp"].item(), expected[f"{name}.gp"], rtol=1e-5, atol=0)
    assert set(logs) == {"discr_real_out", "discr_fake_out", "discr_real_gp"}
    assert not any(value.requires_grad for value in logs.values())


def test_penalty_of_a_linear_score_is_its_weights_norm_and_has_a_gradient():
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    real = torch.rand(4, 3, 2, 2, requires_grad=True)
    score = (real * weight.view(1, 3, 1, 1)).sum(1, keepdim=True)
    penalty = r1_penalty(score, real)
    assert penalty.item() == pytest.approx(4 * (1 + 4 + 9))  # four pixels of each picture
    penalty.backward()
    assert weight.grad.tolist() == [8.0, -16.0, 24.0]


def test_no_penalty_where_gradients_are_off():
    with torch.no_grad():
        scores = golden_scores()
        total, logs = make_discrim_loss("r1", gp_coef=1e6).discriminator_loss(**scores)
    assert logs["discr_real_gp"].item() == 0
    expected = (F.softplus(-scores["discr_real_pred"]) + F.softplus(scores["discr_fake_pred"])).mean()
    torch.testing.assert_close(total, expected)


def softplus(x: float) -> float:
    return log1p(exp(x))


def two_patches() -> dict[str, torch.Tensor]:
    """Scores of one patch in the hole and one outside."""
    return {
        "real_batch": torch.zeros(1, 3, 1, 2, requires_grad=True),
        "discr_real_pred": torch.tensor([[[[0.3, -0.1]]]]),
        "discr_fake_pred": torch.tensor([[[[1.0, -2.0]]]]),
        "mask": torch.tensor([[[[1.0, 0.0]]]]),
    }


IN_HOLE, OUTSIDE = 1.0, -2.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, softplus(-IN_HOLE) + softplus(-OUTSIDE)),
        ({"extra_mask_weight_for_gen": 2}, softplus(-IN_HOLE) + softplus(-OUTSIDE)),
        (
            {"extra_mask_weight_for_gen": 2, "mask_as_fake_target": True},
            3 * softplus(-IN_HOLE) + softplus(-OUTSIDE),
        ),
        ({"use_unmasked_for_gen": False, "use_unmasked_for_discr": False}, softplus(-IN_HOLE)),
    ],
)
def test_generator_terms_patch_by_patch(settings, expected):
    patches = two_patches()
    total, _ = make_discrim_loss("r1", weight=4, **settings).generator_loss(
        discr_fake_pred=patches["discr_fake_pred"], mask=patches["mask"]
    )
    assert total.item() == pytest.approx(4 * expected / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "fake_term"),
    [
        ({}, softplus(IN_HOLE) + softplus(OUTSIDE)),
        ({"mask_as_fake_target": True}, softplus(IN_HOLE) + softplus(-OUTSIDE)),
        ({"use_unmasked_for_discr": False}, softplus(IN_HOLE)),
    ],
)
def test_discriminator_terms_patch_by_patch(settings, fake_term):
    loss = make_discrim_loss("r1", weight=4, **settings)
    with torch.no_grad():
        total, logs = loss.discriminator_loss(**two_patches())
    assert total.item() == pytest.approx((softplus(-0.3) + softplus(0.1) + fake_term) / 2, rel=1e-6)
    assert logs["discr_real_out"].item() == pytest.approx(0.1)
    assert logs["discr_fake_out"].item() == pytest.approx(-0.5)


def test_bce_equals_softplus_sums():
    loss = make_discrim_loss("bce", weight=4)
    patches = two_patches()
    total, _ = loss.generator_loss(discr_fake_pred=patches["discr_fake_pred"], mask=patches["mask"])
    assert total.item() == pytest.approx(4 * (softplus(-IN_HOLE) + softplus(-OUTSIDE)) / 2, rel=1e-6)
    total, logs = loss.discriminator_loss(**patches)
    real_term, fake_term = softplus(-0.3) + softplus(0.1), softplus(IN_HOLE) + softplus(-OUTSIDE)
    assert total.item() == pytest.approx((real_term + fake_term) / 2 / 2, rel=1e-6)
    assert set(logs) == {"discr_real_out", "discr_fake_out"}


def test_bce_without_mask_takes_all_of_the_fake_for_fake():
    total, _ = make_discrim_loss("bce", mask_as_fake_target=False).discriminator_loss(**two_patches())
    real_term, fake_term = softplus(-0.3) + softplus(0.1), softplus(IN_HOLE) + softplus(OUTSIDE)
    assert total.item() == pytest.approx((real_term + fake_term) / 2 / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["r1", "bce"])
@pytest.mark.parametrize(("mode", "expected"), [("nearest", 1.0), ("maxpool", 0.0)])
def test_mask_modes_differ_on_a_thin_hole(kind, mode, expected):
    """A hole that nearest sampling steps over: only maxpool marks the patch as fake."""
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 3] = 1
    score = torch.full((1, 1, 1, 1), 30.0)
    loss = make_discrim_loss(kind, mask_as_fake_target=True, allow_scale_mask=True, mask_scale_mode=mode)
    with torch.no_grad():
        total, _ = loss.discriminator_loss(
            real_batch=torch.zeros(1, 3, 4, 4), discr_real_pred=score, discr_fake_pred=score, mask=mask
        )
    assert (total.item() < 1e-6) == bool(expected)


@pytest.mark.parametrize("kind", ["r1", "bce"])
def test_resizing_the_mask_must_be_allowed(kind):
    loss = make_discrim_loss(kind, mask_as_fake_target=True)
    patches = {**two_patches(), "mask": torch.ones(1, 1, 8, 16)}
    with torch.no_grad(), pytest.raises(InputError, match=r"\(1, 2\).*\(8, 16\).*allow_scale_mask=true"):
        loss.discriminator_loss(**patches)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        ("r1", {"use_unmasked_for_gen": False}, "use_unmasked_for_discr=false"),
        ("r1", {"use_unmasked_for_discr": False, "mask_as_fake_target": True}, "use_unmasked_for_discr=true"),
        ("r1", {"mask_scale_mode": "bilinear"}, "mask_scale_mode.*maxpool, nearest"),
        ("r1", {"gp_coeff": 1}, r"losses\.adversarial\.gp_coeff.*gp_coef"),
        ("wgan", {}, r"losses\.adversarial\.kind.*bce, r1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings, match):
    with pytest.raises(InputError, match=match):
        make_discrim_loss(kind, **settings)
