"""Relativistic pairing with R1 and R2 against closed forms and a plain restatement, alone and in training steps."""

from __future__ import annotations

from math import exp, log, log1p
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from saicinpainting.losses.adversarial import BCELoss, RelativisticWithR1R2, make_discrim_loss
from saicinpainting.networks.conv_double_backward import DoubleBackwardConv2d
from saicinpainting.training.factory import make_training_model
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, Recorder, golden_config
from tests.helpers import fill, rand

COEF = 0.3
RELATIVISTIC = {"kind": "relativistic", "weight": 10, "gp_coef": COEF, "gp_interval": 2}


def softplus(x: float) -> float:
    return log1p(exp(x))


def make(adversarial: dict[str, Any] = RELATIVISTIC, **training_model: Any) -> Any:
    """A small LaMa whose generator's loss is the adversarial one alone."""
    config = golden_config()
    config["training_model"] |= training_model
    config["losses"] = {"l1": {"weight_known": 0}, "adversarial": adversarial}
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    return model


# ---- the loss by itself ---------------------------------------------------------------------------------------------


def two_pairs() -> dict[str, Tensor]:
    """Scores of one patch in the hole and one outside."""
    return {
        "discr_real_pred": torch.tensor([[[[0.3, -0.1]]]]),
        "discr_fake_pred": torch.tensor([[[[1.0, -2.0]]]]),
        "mask": torch.tensor([[[[1.0, 0.0]]]]),
    }


IN_HOLE, OUTSIDE = 0.3 - 1.0, -0.1 + 2.0  # D(real) - D(fake)


@pytest.mark.parametrize(
    ("settings", "discriminator", "generator"),
    [
        ({}, softplus(-IN_HOLE) + softplus(-OUTSIDE), softplus(IN_HOLE) + softplus(OUTSIDE)),
        (
            {"mask_as_fake_target": True, "extra_mask_weight_for_gen": 2},
            softplus(-IN_HOLE) + (softplus(-OUTSIDE) + softplus(OUTSIDE)) / 2,
            3 * softplus(IN_HOLE) + softplus(OUTSIDE),
        ),
        ({"use_unmasked_for_discr": False}, softplus(-IN_HOLE), softplus(IN_HOLE) + softplus(OUTSIDE)),
        ({"use_unmasked_for_discr": False, "use_unmasked_for_gen": False}, softplus(-IN_HOLE), softplus(IN_HOLE)),
    ],
)
def test_terms_pair_by_pair(settings: dict[str, Any], discriminator: float, generator: float) -> None:
    loss = make_discrim_loss("relativistic", weight=4, **settings)
    images = {"real_batch": torch.zeros(1, 3, 1, 2), "fake_batch": torch.zeros(1, 3, 1, 2)}
    with torch.no_grad():
        total, _ = loss.discriminator_loss(**images, **two_pairs())
    assert total.item() == pytest.approx(discriminator / 2, rel=1e-6)
    total, logs = loss.generator_loss(**two_pairs())
    assert total.item() == pytest.approx(4 * generator / 2, rel=1e-6)
    assert logs == {}


def test_a_thin_hole_is_seen_by_maxpool_alone() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 3] = 1
    scores = {"discr_real_pred": torch.full((1, 1, 1, 1), 30.0), "discr_fake_pred": torch.zeros(1, 1, 1, 1)}
    images = {"real_batch": torch.zeros(1, 3, 4, 4), "fake_batch": torch.zeros(1, 3, 4, 4)}
    for mode, expected in (("nearest", 15.0), ("maxpool", 0.0)):
        settings = {"mask_as_fake_target": True, "allow_scale_mask": True, "mask_scale_mode": mode}
        with torch.no_grad():
            total, _ = make_discrim_loss("relativistic", **settings).discriminator_loss(**images, **scores, mask=mask)
        assert total.item() == pytest.approx(expected, abs=1e-6)


def test_scores_that_are_equal_cost_log_two_and_shuffled_pairs_cost_something_else() -> None:
    real, fake, mask = rand(1, 4, 1, 3, 3).double(), rand(2, 4, 1, 3, 3).double(), torch.ones(4, 1, 3, 3)
    loss = make_discrim_loss("relativistic", gp_interval=2)
    images = {"real_batch": torch.zeros(4, 3, 8, 8), "fake_batch": torch.zeros(4, 3, 8, 8)}

    def both(real: Tensor, fake: Tensor) -> tuple[float, float]:
        scores = {"discr_real_pred": real, "discr_fake_pred": fake, "mask": mask}
        discriminator, _ = loss.discriminator_loss(**images, **scores, step=1)
        return float(discriminator), float(loss.generator_loss(**scores)[0])

    assert both(real, real) == pytest.approx((log(2), log(2)), rel=1e-12)
    paired, shuffled, moved = both(real, fake), both(real, fake.roll(1, dims=0)), both(real, fake.roll(1, dims=3))
    for i in range(2):
        assert abs(paired[i] - shuffled[i]) > 1e-4
        assert abs(paired[i] - moved[i]) > 1e-4
    assert both(real.roll(1, dims=0), fake.roll(1, dims=0)) == pytest.approx(paired, rel=1e-12)


def test_each_penalty_of_a_quadratic_score_is_that_of_its_own_images() -> None:
    """D(x) = Σ_c w_c x_c + a/2 Σ_c x_c² of each pixel has the gradient w_c + a x_c."""
    weight, curve = torch.tensor([1.0, -2.0, 3.0]).double(), torch.tensor(0.7).double().requires_grad_()
    images = {"real_batch": rand(3, 2, 3, 4, 5).double(), "fake_batch": rand(4, 2, 3, 4, 5).double() - 1}
    images = {name: image.requires_grad_() for name, image in images.items()}

    def score(image: Tensor) -> Tensor:
        return (weight.view(3, 1, 1) * image + curve / 2 * image.square()).sum(1, keepdim=True)

    loss = make_discrim_loss("relativistic", gp_coef=COEF, gp_interval=3)
    scores = {"discr_real_pred": score(images["real_batch"]), "discr_fake_pred": score(images["fake_batch"])}
    scores["mask"] = torch.ones(2, 1, 4, 5)
    without, few = loss.discriminator_loss(**images, **scores, step=2)
    total, logs = loss.discriminator_loss(**images, **scores, step=3)
    slopes = {name: weight.view(3, 1, 1) + 0.7 * image.detach() for name, image in images.items()}
    closed = {name: COEF * slope.square().sum() / 2 for name, slope in slopes.items()}
    assert set(few) == {"discr_real_out", "discr_fake_out"}
    assert set(logs) == {*few, "discr_real_gp", "discr_fake_gp"}
    assert not any(value.requires_grad for value in logs.values())
    torch.testing.assert_close(logs["discr_real_gp"], closed["real_batch"])
    torch.testing.assert_close(logs["discr_fake_gp"], closed["fake_batch"])
    torch.testing.assert_close(total - without, 3 * sum(closed.values()))
    (by_curve,) = torch.autograd.grad(total - without, curve)
    expected = sum((slopes[name] * image.detach()).sum() for name, image in images.items())
    torch.testing.assert_close(by_curve, 3 * COEF * expected)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"use_unmasked_for_gen": False}, "use_unmasked_for_discr=false"),
        ({"use_unmasked_for_discr": False, "mask_as_fake_target": True}, "use_unmasked_for_discr=true"),
        ({"gp_interval": 0}, "gp_interval: expected 1"),
        ({"gp_coeff": 1}, r"losses\.adversarial\.gp_coeff.*gp_coef"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make_discrim_loss("relativistic", **settings)


# ---- losses of others -----------------------------------------------------------------------------------------------


class Unpaired(BCELoss):
    """Takes what losses were given before there were pairs, and no more."""


class Paired(RelativisticWithR1R2):
    pass


class HalfPaired(BCELoss):
    paired = True


def test_a_foreign_loss_is_given_pairs_if_it_says_so() -> None:
    batch = {"image": rand(1, 2, 3, 64, 64), "mask": (rand(2, 2, 1, 64, 64) > 0.6).float()}
    for name in ("Unpaired", "Paired"):
        model = make({"_target_": f"{__name__}.{name}", "mask_as_fake_target": False})
        filled = model(batch)
        assert model.generator_loss(filled)[0].isfinite()
        assert model.discriminator_loss(filled)[0].isfinite()
    with pytest.raises(InputError, match=r"HalfPaired has to take generator_loss\(.*discr_real_pred"):
        make({"_target_": f"{__name__}.HalfPaired"})


# ---- in training ----------------------------------------------------------------------------------------------------


def plain(discriminator: nn.Module, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Scores through PyTorch's own convolutions."""
    with monkeypatch.context() as patched:
        patched.setattr(DoubleBackwardConv2d, "forward", nn.Conv2d.forward)
        return discriminator(image)[0]


def test_the_discriminator_learns_what_a_plain_restatement_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make().double().train()
    filled = model(GoldenBatches()[0])
    parameters = list(model.discriminator.parameters())
    for step, times in ((0, 2), (1, 0)):
        total, logs = model.discriminator_loss(filled, step)
        gradients = torch.autograd.grad(total, parameters)
        images = [filled[name].detach().requires_grad_() for name in ("image", "predicted_image")]
        real, fake = (plain(model.discriminator, image, monkeypatch) for image in images)
        expected = torch.log(1 + torch.exp(fake - real)).mean()
        for score, image, name in zip((real, fake), images, ("real", "fake"), strict=True):
            slopes = torch.autograd.grad(score.sum(), image, create_graph=True)[0]
            penalty = COEF * sum((one**2).sum() for one in slopes) / len(slopes)
            expected = expected + times * penalty
            if times:
                torch.testing.assert_close(logs[f"adv_discr_{name}_gp"], penalty.detach(), rtol=1e-9, atol=0)
        torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
        for gradient, by_hand in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(gradient, by_hand, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("seen", ["predicted_image", "inpainted"])
def test_the_generator_learns_what_a_plain_restatement_says(monkeypatch: pytest.MonkeyPatch, seen: str) -> None:
    model = make(image_to_discriminator=seen).double().train()
    filled = model(GoldenBatches()[0])
    parameters = list(model.generator.parameters())
    total, logs = model.generator_loss(filled)
    gradients = torch.autograd.grad(total, parameters, retain_graph=True)
    fake = plain(model.discriminator, filled[seen], monkeypatch)
    real = plain(model.discriminator, filled["image"], monkeypatch).detach()
    expected = 10 * torch.log(1 + torch.exp(real - fake)).mean()
    torch.testing.assert_close(logs["gen_adv"], expected, rtol=1e-9, atol=0)
    for gradient, by_hand in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(gradient, by_hand, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "64-true"), ({"reuse_generator_output": True}, "64-true"), ({"discriminator_warmup_steps": 2}, "bf16-mixed")],
)
def test_steps_have_both_penalties_every_kth_time_and_no_pass_more(options: dict[str, Any], precision: Any) -> None:
    model, recorder, passes = make(**options), Recorder(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.discriminator.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, max_steps=4, callbacks=[recorder], logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    dtype = torch.float64 if precision == "64-true" else torch.float32
    trainer.fit(model, DataLoader(GoldenBatches(dtype), batch_size=None))
    warm_up = options.get("discriminator_warmup_steps", 0)
    assert passes == [True] * 2 * warm_up + [False, True, True, True] * (4 - warm_up)  # as with r1
    for name in ("train_adv_discr_real_gp", "train_adv_discr_fake_gp"):
        penalties = [step[name] for step in recorder.steps]
        assert penalties[0] == penalties[1] != penalties[2] == penalties[3]
        assert min(penalties) > 0
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in recorder.steps)
    assert recorder.steps[-1]["train_skipped_batches"] == 0
    for network in ("generator", "discriminator"):
        weights = [name for name, _ in model.named_parameters() if name.startswith(network)]
        changed = [name for name in weights if not torch.equal(model.state_dict()[name].cpu(), before[name].to(dtype))]
        assert len(changed) > len(weights) / 2
