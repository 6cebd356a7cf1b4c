"""Steps of the training module in which the discriminator trains alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, golden_config
from tests.helpers import assert_same, fill, write_data
from tests.runs import compose_run

WARMUP = {"discriminator_warmup_steps": 3}


def make(options: dict[str, Any]) -> Any:
    config = golden_config()
    config["training_model"] |= options
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    return model.double()


def fit(model: Any, steps: int) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", precision="64-true", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, DataLoader(GoldenBatches(), batch_size=None))
    return trainer


def moved(state: dict[str, torch.Tensor], before: dict[str, torch.Tensor], prefix: str) -> list[bool]:
    return [not torch.equal(tensor, before[name]) for name, tensor in state.items() if name.startswith(prefix)]


def test_in_a_warm_up_the_generator_stays_with_its_statistics_and_every_step_counts():
    model = make(WARMUP)
    before = copy.deepcopy(model.state_dict())
    trainer = fit(model, 3)
    assert trainer.global_step == 3
    assert not any(moved(model.state_dict(), before, "generator."))
    assert all(moved(model.state_dict(), before, "discriminator."))
    assert "train_discr_adv" in trainer.callback_metrics
    assert "train_gen_l1" not in trainer.callback_metrics
    model = make(WARMUP)
    trainer = fit(model, 4)
    assert trainer.global_step == 4
    assert all(moved(model.state_dict(), before, "generator."))
    assert "train_gen_l1" in trainer.callback_metrics


@pytest.mark.parametrize("reuse", [True, False])
def test_the_discriminator_s_steps_are_those_of_the_formula(reuse: bool):
    """Scores of images and of the fixed generator's results, R1 (gp_coef .001), clipped to 1, Adam at 1e-4."""
    model = make({**WARMUP, "reuse_generator_output": reuse})
    expected = make({})
    network, fixed = expected.discriminator.train(), expected.generator.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    for step in range(3):
        batch = GoldenBatches()[step]
        image, mask = batch["image"].requires_grad_(True), batch["mask"]
        with torch.no_grad():
            fake = copy.deepcopy(fixed)(torch.cat([image * (1 - mask), mask], 1))
        real_score, fake_score = network(image)[0], network(fake)[0]
        hole = F.interpolate(mask, size=fake_score.shape[-2:])
        (slope,) = torch.autograd.grad(real_score.sum(), image, create_graph=True)
        penalty = 0.001 * slope.square().sum((1, 2, 3)).mean()
        loss = F.softplus(-real_score) + hole * F.softplus(fake_score) + (1 - hole) * F.softplus(-fake_score)
        optimizer.zero_grad()
        (loss.mean() + penalty).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    fit(model, 3)
    for (name, found), wanted in zip(
        model.discriminator.state_dict().items(), network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11, msg=name)


def test_a_run_stopped_in_its_warm_up_goes_on_as_if_it_had_not_been(tmp_path: Path):
    """With micro-batches; the generator's schedule waits for its first step."""
    write_data(tmp_path / "data")  # eight images: two steps an epoch
    extra = (
        "+training_model.discriminator_warmup_steps=3", "+trainer.kwargs.accumulate_grad_batches=2", "data.val=null",
        "data.visual_test=null", "+trainer.kwargs.enable_progress_bar=false", "trainer.resume_from_checkpoint=auto",
        "+optimizers.generator.scheduler.warmup_steps=10", "+optimizers.discriminator.scheduler.warmup_steps=10",
    )  # fmt: skip
    train(compose_run(tmp_path, *extra, "trainer.kwargs.max_epochs=3"), tmp_path / "whole")
    for epochs in (1, 3):
        train(compose_run(tmp_path, *extra, f"trainer.kwargs.max_epochs={epochs}"), tmp_path / "resumed")
    whole, resumed = (read_checkpoint(tmp_path / name / "models" / "last.ckpt") for name in ("whole", "resumed"))
    assert whole["global_step"] == 6
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(resumed[part], whole[part], part)
    rates = [optimizer["param_groups"][0]["lr"] for optimizer in whole["optimizer_states"]]
    assert rates == pytest.approx([0.001 * 4 / 10, 0.0001 * 7 / 10])  # of the steps to come: the fourth, the seventh


def test_without_an_adversarial_loss_the_discriminators_schedule_waits(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
):
    """It does not learn: its rate stays, and no warning says that a schedule went on before its optimizer did."""
    write_data(tmp_path / "data")
    extra = (
        "losses.adversarial.weight=0", "losses.feature_matching.weight=0", "data.val=null", "data.visual_test=null",
        "+trainer.kwargs.enable_progress_bar=false", "trainer.kwargs.max_epochs=1",
        "+training_model.average_generator=true",
        "+optimizers.generator.scheduler.warmup_steps=10", "+optimizers.discriminator.scheduler.warmup_steps=10",
    )  # fmt: skip
    with caplog.at_level("INFO"):
        train(compose_run(tmp_path, *extra), tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run" / "models" / "last.ckpt")
    steps = saved["global_step"]
    rates = [optimizer["param_groups"][0]["lr"] for optimizer in saved["optimizer_states"]]
    assert rates == pytest.approx([0.001 * (steps + 1) / 10, 0.0001 / 10])
    told = "\n".join(str(one.message) for one in recwarn)
    assert not [word for word in ("scheduler", "eval mode", "across ranks") if word in told], told
    assert "weights_only" not in caplog.text  # of Lightning, at each checkpoint that is written


def test_a_warm_up_of_what_is_not_trained_is_refused():
    config = golden_config()
    config["training_model"] |= WARMUP
    config["losses"]["adversarial"]["weight"] = 0
    with pytest.raises(InputError, match=r"discriminator_warmup_steps: losses\.adversarial\.weight=0"):
        make_training_model(config)
