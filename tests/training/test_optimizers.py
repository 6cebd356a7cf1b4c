"""Optimizers from the config, and what a resumed run makes of those in its checkpoint."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.networks.base import set_memory_format
from saicinpainting.training.optimizers import (
    make_optimizers,
    make_schedulers,
    suit_this_run,
    use_configured_rates,
    warn_of_other_settings,
)
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import assert_same, fill, rand, write_data
from tests.runs import compose_run

SETTINGS = {"generator": {"kind": "adam", "lr": 0.1}, "discriminator": {"kind": "adam", "lr": 0.1}}


def network() -> nn.Conv2d:
    return fill(nn.Conv2d(4, 6, 3))


def step(module: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    module(rand(seed, 2, 4, 8, 8)).square().sum().backward()
    optimizer.step()


def two_steps(first: torch.memory_format, second: torch.memory_format) -> torch.Tensor:
    """The kernel after a step in one layout, and after a resume one in the other."""
    before = network()
    set_memory_format(before, first)
    optimizer, _ = make_optimizers(SETTINGS, before, network(), True)
    step(before, optimizer, 1)
    resumed = network()
    set_memory_format(resumed, second)
    resumed.load_state_dict(before.state_dict())
    after, _ = make_optimizers(SETTINGS, resumed, network(), True)
    after.load_state_dict(optimizer.state_dict())
    suit_this_run(after)
    step(resumed, after, 2)
    return resumed.weight.detach()


@pytest.mark.parametrize("second", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("first", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_of_another_memory_layout_goes_on_as_its_own(first, second):
    """Fused optimizers would pair each weight with the moments of another."""
    expected = two_steps(torch.contiguous_format, torch.contiguous_format)
    torch.testing.assert_close(two_steps(first, second), expected, rtol=1e-5, atol=1e-6)


def test_optimizers_are_fused_unless_the_config_says_otherwise():
    assert [o.defaults["fused"] for o in make_optimizers(SETTINGS, network(), network(), True)] == [True, True]
    own = {**SETTINGS, "generator": {"kind": "adam", "foreach": True}}
    assert [o.defaults["fused"] for o in make_optimizers(own, network(), network(), True)] == [None, True]
    # torch chooses its way, many tensors at a time where it can, only if nothing is set.
    assert [o.defaults["fused"] for o in make_optimizers(SETTINGS, network(), network(), False)] == [None, None]


def test_a_fused_optimizer_is_refused_where_it_would_clip_scaled_gradients():
    own = {**SETTINGS, "discriminator": {"kind": "adam", "fused": True}}
    with pytest.raises(InputError, match=r"optimizers\.discriminator\.fused=true: .* float16"):
        make_optimizers(own, network(), network(), False)


def test_what_a_resume_takes_from_the_checkpoint_is_said(caplog):
    module = network()
    optimizer, _ = make_optimizers(SETTINGS, module, network(), True)
    other, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.2}}, module, network(), True)
    with caplog.at_level(logging.WARNING):
        warn_of_other_settings(optimizer)
    assert not caplog.text
    other.load_state_dict(optimizer.state_dict())
    with caplog.at_level(logging.WARNING):
        warn_of_other_settings(other)
    assert "resumed with lr=0.1 of the checkpoint, not 0.2 of the config" in caplog.text
    assert len(caplog.records) == 1
    other, _ = make_optimizers(
        {**SETTINGS, "generator": {**SETTINGS["generator"], "amsgrad": True}}, module, module, True
    )
    other.load_state_dict(optimizer.state_dict())
    with caplog.at_level(logging.WARNING):
        warn_of_other_settings(other)
    assert "resumed with amsgrad=False of the checkpoint, not True of the config; trainer.finetune_from" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": {}}, r"optimizers\.discriminator: missing config key"),
        ({**SETTINGS, "critic": {}}, r"optimizers\.critic: unknown config key"),
        ({**SETTINGS, "generator": {"betas": [0.5, 2]}}, r"optimizers\.generator: Invalid beta parameter.*2"),
        ({**SETTINGS, "generator": {"betas": 0.5}}, r"optimizers\.generator: 'float' object is not iterable"),
        ({**SETTINGS, "generator": {"lr": "1e-3x"}}, r"optimizers\.generator: .*; given lr='1e-3x'$"),
        ({**SETTINGS, "generator": {"kind": "sgdd"}}, r"optimizers\.generator\.kind: unknown kind 'sgdd'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        make_optimizers(settings, network(), network(), True)


def test_a_beta_may_be_written_as_a_whole_number():
    generator = make_optimizers({**SETTINGS, "generator": {"betas": [0, 0.99]}}, network(), network(), True)[0]
    assert list(generator.param_groups[0]["betas"]) == [0, 0.99]


@pytest.mark.parametrize("before", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"capturable": False}])
@pytest.mark.parametrize("after", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_resumed_optimizer_computes_as_this_run_says(before, after):
    """Its checkpoint holds how the run that wrote it computed."""
    module = network()
    old, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.1, **before}}, module, network(), True)
    step(module, old, 1)
    new, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.1, **after}}, module, network(), True)
    expected = {name: new.param_groups[0][name] for name in ("fused", "foreach", "capturable")}
    new.load_state_dict(old.state_dict())
    suit_this_run(new)
    assert {name: new.param_groups[0][name] for name in expected} == expected
    assert {state["step"].dtype for state in new.state.values()} == {torch.float32}
    step(module, new, 2)


# ---- learning rates that change -------------------------------------------------------------------------------------

SCHEDULES = "torch.optim.lr_scheduler"
WARM_COSINE = {"warmup_steps": 4, "_target_": f"{SCHEDULES}.CosineAnnealingLR", "T_max": 6}


def warm_cosine(step: int, rate: float = 0.1) -> float:
    """The formula of `WARM_COSINE`: four steps up, then half a cosine of six."""
    return rate * (step + 1) / 4 if step < 4 else rate * (1 + math.cos(math.pi * (step - 4) / 6)) / 2


def with_schedulers(generator: Any, discriminator: Any = None, rate: float = 0.1) -> dict[str, Any]:
    return {
        "generator": {"kind": "adam", "lr": rate, "scheduler": generator},
        "discriminator": {"kind": "adam", "lr": rate, "scheduler": discriminator},
    }


def rates(optimizer: torch.optim.Optimizer, scheduler: Any, module: nn.Conv2d, steps: int) -> list[float]:
    """The learning rate of each of the next steps."""
    found = []
    for number in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        step(module, optimizer, number)
        scheduler.step()
    return found


def test_a_warm_up_rises_in_equal_steps_and_the_schedule_begins_after_it():
    settings, module = with_schedulers(WARM_COSINE, {"warmup_steps": 3}), network()
    optimizers = make_optimizers(settings, module, network(), True)
    first, second = make_schedulers(settings, optimizers)
    assert rates(optimizers[0], first, module, 10) == pytest.approx([warm_cosine(i) for i in range(10)])
    assert rates(optimizers[1], second, network(), 6) == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.1])


def test_a_warm_up_of_one_step_and_a_schedule_without_one():
    for scheduler in ({"warmup_steps": 1}, {"_target_": f"{SCHEDULES}.ConstantLR", "factor": 1.0}):
        settings, module = with_schedulers(scheduler), network()
        optimizers = make_optimizers(settings, module, network(), True)
        (made,) = make_schedulers(settings, optimizers)
        assert rates(optimizers[0], made, module, 3) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"warmup_steps": -1}, r"optimizers\.generator\.scheduler\.warmup_steps: expected a whole number"),
        (
            {"warmup_steps": 2, "T_max": 3},
            r"optimizers\.generator\.scheduler\.T_max: unknown config key; known: _target_",
        ),
        ({"warmup": 5}, r"optimizers\.generator\.scheduler\.warmup: unknown config key; .*did you mean 'warmup_steps'"),
        ({}, r"optimizers\.generator\.scheduler\._target_: missing config key"),
        ("cosine", r"optimizers\.generator\.scheduler: expected a mapping of settings or null, got 'cosine'"),
        ({**WARM_COSINE, "T_min": 3}, r"optimizers\.generator\.scheduler.*T_min"),
        (
            {"_target_": f"{SCHEDULES}.ReduceLROnPlateau"},
            r"scheduler\._target_: .*ReduceLROnPlateau wants a value in each step",
        ),
        (
            {**WARM_COSINE, "_target_": f"{SCHEDULES}.LinearLR", "T_max": None, "start_factor": 2},
            r"scheduler: .*LinearLR",
        ),
        ({"_target_": f"{SCHEDULES}.LambdaLR", "lr_lambda": "0.9"}, r"scheduler: .*LambdaLR does not take"),
        ({**WARM_COSINE, "T_max": 0}, r"scheduler: .*CosineAnnealingLR does not take T_max=0: .* zero; correct"),
        ({"_target_": f"{SCHEDULES}.StepLR", "step_size": 0}, r"StepLR does not take step_size=0: .* zero"),
        (
            {"_target_": f"{SCHEDULES}.CyclicLR", "base_lr": 0.1, "max_lr": 1, "step_size_up": 0},
            r"CyclicLR does not take base_lr=0\.1, max_lr=1, step_size_up=0: .* zero",
        ),
    ],
)
def test_wrong_schedules_are_named(scheduler: Any, message: str):
    settings = with_schedulers(scheduler)
    with pytest.raises(InputError, match=message):
        make_schedulers(settings, make_optimizers(settings, network(), network(), True))


class OwnAdam(torch.optim.Adam):
    """An optimizer of one's own, which a schedule asks for its scale."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.scale = 0.5
        super().__init__(*args, **kwargs)


class Scaled(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer, lambda step: optimizer.scale**step)


def test_trying_a_schedule_changes_nothing_of_the_optimizer():
    optimizer = OwnAdam([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.1), foreach=False, capturable=False)
    settings: Any = {"generator": {"scheduler": {"_target_": f"{__name__}.Scaled"}}}
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    (scheduler,) = make_schedulers(settings, [optimizer, other])
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)
    optimizer.step()
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


def schedule_of(path: Path) -> tuple[float, Any]:
    checkpoint = read_checkpoint(path / "models" / "last.ckpt")
    return checkpoint["optimizer_states"][0]["param_groups"][0]["lr"], checkpoint


def test_schedules_count_steps_of_the_optimizer_with_micro_batches_and_through_a_resume(tmp_path: Path):
    write_data(tmp_path / "data")  # eight images: two steps an epoch
    scheduler = f"{{warmup_steps: 4, _target_: {WARM_COSINE['_target_']}, T_max: 6}}"
    extra = (
        f"+optimizers.generator.scheduler={scheduler}", f"+optimizers.discriminator.scheduler={scheduler}",
        "+trainer.kwargs.accumulate_grad_batches=2", "data.val=null", "data.visual_test=null",
        "optimizers.generator.lr=0.01", "+trainer.kwargs.enable_progress_bar=false",
    )  # fmt: skip
    train(compose_run(tmp_path, *extra, "trainer.kwargs.max_epochs=3"), tmp_path / "whole")
    resume = (*extra, "trainer.resume_from_checkpoint=auto")
    for epochs in (1, 3):
        train(compose_run(tmp_path, *resume, f"trainer.kwargs.max_epochs={epochs}"), tmp_path / "resumed")
    (rate, whole), (_, resumed) = (schedule_of(tmp_path / name) for name in ("whole", "resumed"))
    assert whole["global_step"] == 6
    assert rate == pytest.approx(warm_cosine(6, 0.01))
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(resumed[part], whole[part], part)


# ---- another learning rate at a resume ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, WARM_COSINE, {"_target_": f"{SCHEDULES}.StepLR", "step_size": 2}])
def test_the_config_s_learning_rate_wins_at_the_step_reached_and_moments_stay(scheduler: Any, caplog):
    module, settings = network(), with_schedulers(scheduler)
    optimizers = make_optimizers(settings, module, network(), True)
    schedulers = make_schedulers(settings, optimizers)
    for number in range(7):
        step(module, optimizers[0], number)
        for made in schedulers:
            made.step()

    changed = with_schedulers(scheduler, rate=0.03)
    resumed = make_optimizers(changed, module, network(), True)
    its = make_schedulers(changed, resumed)
    for new, old in zip([*resumed, *its], [*optimizers, *schedulers], strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    moments = copy.deepcopy(resumed[0].state_dict()["state"])
    with caplog.at_level(logging.INFO):
        steps = [scheduler.last_epoch for scheduler in its]
        use_configured_rates(resumed, its, lambda made: make_schedulers(changed, made), steps)

    expected = {None: 0.03, "CosineAnnealingLR": warm_cosine(7, 0.03), "StepLR": 0.03 * 0.1**3}
    now = expected[scheduler and scheduler["_target_"].rpartition(".")[2]]
    assert resumed[0].param_groups[0]["lr"] == pytest.approx(now)
    before = optimizers[0].param_groups[0]["lr"]
    assert f"generator: learning rate {before:g} -> {now:g} (trainer.resume_lr), the moments of Adam" in caplog.text
    assert_same(resumed[0].state_dict()["state"], moments, "moments")
    if scheduler is WARM_COSINE:  # and the schedule goes on
        assert rates(resumed[0], its[0], module, 3) == pytest.approx([warm_cosine(i, 0.03) for i in (7, 8, 9)])


def test_a_resumed_run_takes_the_config_s_learning_rate_where_it_is_told_to(tmp_path: Path, caplog):
    write_data(tmp_path / "data")
    extra = ("data.val=null", "data.visual_test=null", "+trainer.kwargs.enable_progress_bar=false")
    train(compose_run(tmp_path, *extra), tmp_path / "run")
    again = (
        *extra, "trainer.resume_from_checkpoint=auto", "optimizers.generator.lr=0.0003", "trainer.kwargs.max_epochs=2",
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        train(compose_run(tmp_path, *again, "trainer.resume_lr=true"), tmp_path / "run")
    assert "generator: learning rate 0.001 -> 0.0003" in caplog.text
    assert "discriminator: learning rate" not in caplog.text
    assert "resumed with lr" not in caplog.text
    rate, checkpoint = schedule_of(tmp_path / "run")
    assert rate == 0.0003
    assert {float(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()} == {8.0}
