"""What a resumed run makes of schedules that were added, changed or dropped in its config."""

from __future__ import annotations

import copy
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.optimizers import NAMES, warn_of_other_settings
from saicinpainting.training.run import train
from saicinpainting.training.schedules import SETTINGS, Schedules
from saicinpainting.utils import InputError
from tests.helpers import assert_same, write_data
from tests.runs import compose_run

TORCH = "torch.optim.lr_scheduler"
COSINE = {"warmup_steps": 2, "_target_": f"{TORCH}.CosineAnnealingLR", "T_max": 10}
LONGER = {**COSINE, "T_max": 16}
STEPS = {"_target_": f"{TORCH}.StepLR", "step_size": 4}
CYCLIC = {"_target_": f"{TORCH}.CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 5}
ONE_CYCLE = {"warmup_steps": 2, "_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.1, "total_steps": 20}
MILESTONES = {"_target_": f"{TORCH}.MultiStepLR", "milestones": [3, 8]}
DONE, MORE = 6, 8


class Run:
    """Optimizers and schedules as `InpaintingModule` has them; `config`: of each network's schedule."""

    def __init__(self, config: Any, checkpoint: Any = None, *, resume_lr: bool = False, steps: int = DONE) -> None:
        networks = dict(zip(NAMES, config, strict=True))
        self.schedules = Schedules({name: {"scheduler": s} for name, s in networks.items()}, resume_lr=resume_lr)
        self.optimizers = [torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in NAMES]
        checkpoint = copy.deepcopy(checkpoint)
        if checkpoint:
            self.schedules.check_resumable(checkpoint, "last.ckpt")
            self.schedules.restore(checkpoint)
        self.schedulers = self.schedules.start(self.optimizers)
        if checkpoint:
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                optimizer.load_state_dict(state)
        self.schedules.resume(self.optimizers, dict.fromkeys(NAMES, steps if checkpoint else 0))
        for name, optimizer in zip(NAMES, self.optimizers, strict=True):
            followed, own = name in self.schedules.followed, self.schedules.own_settings(name)
            warn_of_other_settings(optimizer, scheduled=followed, set_by_schedule=own)

    def rates(self, steps: int) -> list[list[float]]:
        """The learning rates of both networks in each of the next steps."""
        found = []
        for _ in range(steps):
            found.append([optimizer.param_groups[0]["lr"] for optimizer in self.optimizers])
            for optimizer in self.optimizers:
                optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
                optimizer.step()
            self.schedules.step([])
        return found

    def checkpoint(self, *, told: bool = True) -> dict[str, Any]:
        """`told`: with the settings, which older ones lack."""
        found: dict[str, Any] = {
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "lr_schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }
        if told:
            self.schedules.save(found)
        return copy.deepcopy(found)


def stopped(config: Any, *, told: bool = True) -> dict[str, Any]:
    run = Run(config)
    run.rates(DONE)
    return run.checkpoint(told=told)


def whole(config: Any) -> list[list[float]]:
    """The rates of a run whose config was always so, from the step that `stopped` has reached."""
    return Run(config).rates(DONE + MORE)[DONE:]


CHANGES = [
    ((None, None), (LONGER, LONGER)),
    ((COSINE, COSINE), (LONGER, LONGER)),
    ((COSINE, COSINE), (None, None)),
    ((STEPS, None), (COSINE, None)),
    ((COSINE, None), (STEPS, None)),
    ((COSINE, None), (None, COSINE)),
    ((None, STEPS), (COSINE, STEPS)),
    (({"warmup_steps": 9}, None), ({"warmup_steps": 12}, {"warmup_steps": 9})),
]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("before", "now"), CHANGES)
def test_with_resume_lr_the_config_s_schedules_are_followed_as_if_they_had_always_been(before, now, told: bool, caplog):
    run = Run(now, stopped(before, told=told), resume_lr=True)
    assert_same(run.rates(MORE), whole(now))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        *((COSINE, COSINE), (None, STEPS), (STEPS, None), ({"warmup_steps": 9}, COSINE)),
        *(
            (MILESTONES, {**MILESTONES, "warmup_steps": 2}),
            (None, {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.9}),
        ),
    ],
)
def test_unchanged_schedules_go_on_bit_for_bit_and_nothing_is_said(config, told: bool, caplog):
    run, expected = Run(config, stopped(config, told=told)), Run(config)
    expected.rates(DONE)
    assert_same(run.rates(MORE), expected.rates(MORE))
    assert_same(run.checkpoint(), expected.checkpoint())
    assert not caplog.text


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ((COSINE, COSINE), (LONGER, LONGER), r"generator\.scheduler\.T_max=10, not 16; .*discriminator.*=10, not 16; "),
        ((STEPS, None), ({**STEPS, "step_size": 8}, None), r"generator\.scheduler\.step_size=4, not 8; "),
        (({"warmup_steps": 9}, None), ({"warmup_steps": 12}, None), r"generator\.scheduler\.warmup_steps=9, not 12; "),
    ],
)
def test_changed_settings_are_said_in_one_warning_and_the_checkpoint_s_followed(before, now, message, told, caplog):
    run = Run(now, stopped(before, told=told))
    assert_same(run.rates(MORE), whole(before))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    caplog.clear()
    Run(now, run.checkpoint())  # said again, as long as it is so
    for text in (record.getMessage(), *caplog.messages):
        assert text.startswith("resumed with the schedules of the checkpoint, not of the config: ")
        assert text.endswith("; trainer.resume_lr=true takes the config's")
        assert re.search(message, text)
    assert caplog.messages == [record.getMessage()]


@pytest.mark.parametrize("told", [True, False])
def test_a_schedule_that_is_added_or_dropped_leaves_the_rate_where_it_is(told: bool, caplog):
    run = Run((LONGER, None), stopped((None, None), told=told))
    assert run.rates(MORE) == [[0.1, 0.1]] * MORE
    assert "generator.scheduler=null (the learning rate stays), not a warm-up of 2 steps and Cosine" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    dropped = Run((None, COSINE), stopped((COSINE, COSINE), told=told))
    rate = whole((COSINE, None))[0][0]
    assert [generator for generator, _ in dropped.rates(MORE)] == [rate] * MORE
    assert "generator.scheduler: the learning rate stays where a" in caplog.text
    assert f"resumed with lr={rate} of the checkpoint, not 0.1 of the config; trainer.resume_lr=true" in caplog.text
    caplog.clear()
    assert Run((None, COSINE), dropped.checkpoint()).rates(1)[0][0] == rate  # resumed once more
    assert "resumed with lr=" in caplog.text


def test_each_state_goes_to_its_own_network(caplog):
    """There is one in the checkpoint and one in the config, but of different networks."""
    run = Run((None, STEPS), stopped((COSINE, None)))
    assert run.rates(MORE) == [[whole((COSINE, None))[0][0], 0.1]] * MORE
    assert "generator.scheduler: the learning rate stays" in caplog.text
    assert "discriminator.scheduler=null (the learning rate stays), not StepLR" in caplog.text


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("before", "now"),
    [(STEPS, COSINE), (COSINE, STEPS), (COSINE, {"warmup_steps": 2}), (COSINE, {**COSINE, "warmup_steps": 0})],
)
def test_a_schedule_of_another_class_is_refused(before, now, told: bool):
    with pytest.raises(InputError, match=r"optimizers\.generator\.scheduler: last\.ckpt has .*; set it as it was, or"):
        Run((now, None), stopped((before, None), told=told))


@pytest.mark.parametrize("resume_lr", [True, False])
@pytest.mark.parametrize("cyclic", [CYCLIC, ONE_CYCLE])
def test_rates_and_momenta_that_a_schedule_sets_are_not_said_to_differ_from_the_config(cyclic, resume_lr: bool, caplog):
    run = Run((cyclic, None), stopped((cyclic, None)), resume_lr=resume_lr)
    assert not caplog.messages
    assert run.rates(MORE) == whole((cyclic, None))
    dropped = Run((None, None), stopped((cyclic, None)))
    assert dropped.optimizers[0].param_groups[0]["betas"] != (0.9, 0.999)
    assert "resumed with betas=" in caplog.text


def test_a_schedule_that_ends_before_the_run_is_refused():
    run = Run((ONE_CYCLE, COSINE))
    run.schedules.check_length({"generator": 22, "discriminator": 1000})
    run.rates(22)
    with pytest.raises(ValueError, match="Tried to step 21 times"):
        run.rates(1)
    with pytest.raises(
        InputError, match=r"generator\.scheduler\.total_steps=20: a warm-up .* ends after 22 steps, but "
    ):
        run.schedules.check_length({"generator": 23, "discriminator": 1000})
    resumed = Run(({**ONE_CYCLE, "total_steps": 30}, COSINE), stopped((ONE_CYCLE, COSINE)))
    with pytest.raises(InputError, match=r"total_steps=20: .* raise it, with trainer\.resume_lr=true, or lower"):
        resumed.schedules.check_length({"generator": 32, "discriminator": 1000})
    with pytest.raises(InputError, match=r"but the run has no end; raise it"):
        Run((ONE_CYCLE, COSINE)).schedules.check_length({"generator": float("inf"), "discriminator": 0})


class Held(torch.optim.lr_scheduler.LambdaLR):
    """A schedule of somebody's that keeps its last rate after `total_steps`."""

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, lambda step: 1 - min(step, total_steps) / (2 * total_steps))


def test_only_a_schedule_that_raises_at_its_end_has_to_be_as_long_as_the_run():
    held = {"_target_": f"{__name__}.Held", "total_steps": 5}
    run = Run((held, COSINE))
    run.schedules.check_length({"generator": 1000, "discriminator": 1000})
    assert run.rates(10)[-1][0] == pytest.approx(0.05)


def test_runs_whose_schedules_change(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Eight images, two steps an epoch: the generator's schedule gets longer, the discriminator gets one."""
    write_data(tmp_path / "data")
    cosine = f"{{warmup_steps: 2, _target_: {COSINE['_target_']}, T_max: 10}}"
    extra = (
        "data.val=null", "data.visual_test=null", "+trainer.kwargs.enable_progress_bar=false", "data.batch_size=4",
        f"+optimizers.generator.scheduler={cosine}",
    )  # fmt: skip
    train(compose_run(tmp_path, *extra, "trainer.kwargs.max_epochs=2"), tmp_path / "run")
    changed = (
        *extra, "optimizers.generator.scheduler.T_max=16", "+optimizers.discriminator.scheduler.warmup_steps=20",
        "trainer.kwargs.max_epochs=3", "trainer.resume_from_checkpoint=auto",
    )  # fmt: skip

    def resumed(name: str, *more: str) -> list[float]:
        shutil.copytree(tmp_path / "run", tmp_path / name)
        caplog.clear()
        train(compose_run(tmp_path, *changed, *more), tmp_path / name)
        checkpoint = read_checkpoint(tmp_path / name / "models" / "last.ckpt")
        assert checkpoint["global_step"] == 6
        assert set(checkpoint[SETTINGS]) == ({"generator", "discriminator"} if more else {"generator"})
        return [optimizer["param_groups"][0]["lr"] for optimizer in checkpoint["optimizer_states"]]

    def rates(*config: Any) -> list[float]:
        """Of the seventh step."""
        generator, discriminator = Run(config).rates(7)[-1]
        return [generator / 100, discriminator / 1000]  # 0.001 and 0.0001

    assert resumed("as it was") == pytest.approx(rates(COSINE, None))
    assert len([message for message in caplog.messages if message.startswith("resumed with")]) == 1
    assert "optimizers.generator.scheduler.T_max=10, not 16; optimizers.discriminator.scheduler=null" in caplog.text
    assert resumed("config's", "trainer.resume_lr=true") == pytest.approx(rates(LONGER, {"warmup_steps": 20}))
    assert "resumed with" not in caplog.text

    one = f"optimizers.generator.scheduler={{_target_: {ONE_CYCLE['_target_']}, max_lr: 0.1, total_steps: 5}}"
    with pytest.raises(InputError, match=r"total_steps=5: OneCycleLR ends after 5 steps, but the run has 6; raise it"):
        train(compose_run(tmp_path, *extra[:-1], f"+{one}", "trainer.kwargs.max_epochs=3"), tmp_path / "one cycle")

    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = ("optimizers.generator.scheduler.warmup_steps=0", "trainer.resume_from_checkpoint=auto")
    with pytest.raises(InputError, match=r"last\.ckpt has a warm-up of 2 steps and CosineAnnealingLR, which cannot go"):
        train(compose_run(tmp_path, *extra, *other), tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
