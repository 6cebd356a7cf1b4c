"""A batch that gives no finite gradient must not reach the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.guard import LAG, NonFiniteGuard
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, Recorder, golden_config
from tests.helpers import fill


class SpoiledBatches(GoldenBatches):
    """The golden batches, some of them with one pixel that is not a number."""

    def __init__(self, spoiled: set[int]) -> None:
        super().__init__(torch.float32)
        self.spoiled = spoiled

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        batch = super().__getitem__(i)
        if i in self.spoiled:
            batch["image"][0, 0, 5, 5] = float("nan")
        return batch


class Weights(pl.Callback):
    """The state of both networks before the run and after every batch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.on_train_start(trainer, module)


def run(
    spoiled: set[int],
    *,
    steps: int = 4,
    plugins: Any = None,
    optimizers: Any = None,
    weights: Weights | None = None,
    **settings: Any,
) -> tuple[Weights, Recorder, pl.Trainer]:
    config = golden_config()
    config["training_model"] |= settings
    for optimizer in config["optimizers"].values():
        optimizer |= optimizers or {}
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    weights, recorder = weights or Weights(), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        plugins=plugins,
        callbacks=[weights, recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(SpoiledBatches(spoiled), batch_size=None))
    return weights, recorder, trainer


def test_a_bad_batch_is_skipped_and_reported(caplog):
    with caplog.at_level(logging.WARNING):
        weights, recorder, trainer = run({1})
    before, after, last = weights.states[1], weights.states[2], weights.states[-1]
    for name in before:  # weights and running statistics alike
        assert torch.equal(before[name], after[name]), name
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.values())
    assert any(not torch.equal(after[name], last[name]) for name in last)
    assert trainer.global_step == 4  # a batch that is skipped counts
    assert [step["train_skipped_batches"] for step in recorder.steps] == [0, 1, 1, 1]
    warnings = [record.getMessage() for record in caplog.records if "skips this batch" in record.getMessage()]
    assert len(warnings) == 2  # one for each network
    assert "step 1: the gradient of the generator is nan (not finite: gen_l1" in warnings[0]


def test_the_steps_after_a_skip_are_those_of_a_run_without_the_batch():
    """Optimizer states are untouched too: the next batch gives what it would have given."""

    class Without(GoldenBatches):
        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            return super().__getitem__(i if i == 0 else i + 1)

    skipped, _, _ = run({1})
    config = golden_config()
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, DataLoader(Without(torch.float32), batch_size=None))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(skipped.states[-1][name], tensor, rtol=0, atol=0)


def test_stop_ends_the_run_at_once():
    with pytest.raises(InputError, match="step 1: the gradient of the generator is nan"):
        run({1}, nonfinite="stop")


def test_too_many_bad_batches_in_a_row_end_the_run():
    with pytest.raises(InputError, match="in 10 batches in a row; the weights were left as they were"):
        run(set(range(10)), steps=20)


def test_bad_batches_that_are_not_in_a_row_do_not_end_it():
    _, recorder, _ = run({0, 1, 3, 4, 6, 7}, steps=10)
    assert recorder.steps[-1]["train_skipped_batches"] == 6


def test_ignore_lets_it_happen():
    weights, _, _ = run({1}, nonfinite="ignore")
    assert any(bool(torch.isnan(tensor).any()) for tensor in weights.states[-1].values())


def test_float16_leaves_the_running_statistics_alone_too(caplog):
    """Its scaler skips the optimizer's step; the forward pass has been by then."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    with caplog.at_level(logging.WARNING):
        weights, recorder, trainer = run({1}, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    for name, before in weights.states[1].items():
        assert torch.equal(before, weights.states[2][name]), name
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.states[-1].values())
    assert recorder.steps[-1]["train_skipped_batches"] == 1
    assert trainer.global_step == 4
    assert "step 1: the gradient of the generator is nan" in caplog.text


def test_networks_without_running_statistics_are_guarded():
    guard = NonFiniteGuard()
    network = torch.nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    before = network.weight.detach().clone()
    for norm, steps in ((float("inf"), False), (1.0, True)):
        network.weight.grad, network.bias.grad = torch.ones_like(network.weight), torch.ones_like(network.bias)
        guard.start_batch([network])
        guard.check(torch.tensor(norm), optimizer, network="generator", step=0, losses={})
        optimizer.step()
        guard.end_batch()
        assert torch.equal(network.weight, before) is not steps


def test_an_optimizer_that_cannot_skip_by_itself_is_kept_from_stepping(caplog):
    """All but fused ones wait for the device."""
    skipped, _, _ = run({1}, optimizers={"foreach": True})
    for name, before in skipped.states[1].items():
        assert torch.equal(before, skipped.states[2][name]), name
    assert "skips this batch" in caplog.text


def test_with_stop_no_later_batch_reaches_the_weights():
    """The report comes some batches after the bad one."""
    weights = Weights()
    with pytest.raises(InputError, match="step 1: the gradient of the generator is nan"):
        run({1}, steps=8, nonfinite="stop", weights=weights)
    assert 3 <= len(weights.states) <= 2 + 1 + LAG
    for later in weights.states[2:]:
        for name, before in weights.states[1].items():
            assert torch.equal(before, later[name]), name


def test_reports_are_read_before_an_epoch_ends(caplog):
    run({3}, steps=4)
    assert "step 3: the gradient of the generator is nan" in caplog.text


def test_an_unknown_policy_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(InputError, match=r"training_model\.nonfinite: expected skip, stop or ignore, got 'skp'"):
        run(set(), nonfinite="skp")
