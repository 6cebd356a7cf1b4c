"""What a run says of itself when it goes wrong, and that it says nothing when it does not."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from saicinpainting.data.sources import FolderSource
from saicinpainting.training import monitors
from saicinpainting.training.loggers import make_callbacks
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.monitors import SpeedMonitor
from saicinpainting.training.run import train
from saicinpainting.training.symptoms import SymptomMonitor, colour_cast
from tests.helpers import rand, write_data
from tests.runs import compose_run

# ---- in runs --------------------------------------------------------------------------------------------------------

STEPS = 100
RUN = (
    "data.val=null", "data.visual_test=null", "data.batch_size=4", "+trainer.kwargs.enable_progress_bar=false",
    "+trainer.kwargs.enable_model_summary=false", "trainer.kwargs.max_epochs=-1", f"+trainer.kwargs.max_steps={STEPS}",
    "trainer.kwargs.log_every_n_steps=2", "visualizer.kind=noop", "trainer.checkpoint_kwargs.every_n_train_steps=null",
    "losses.l1.weight_missing=30", "losses.adversarial.weight=0.1", "losses.feature_matching.weight=1",
    "+callbacks.symptoms.settle_steps=60", "+callbacks.symptoms.window=12", "+callbacks.symptoms.wait_steps=6",
)  # fmt: skip


class RedLoss(torch.nn.Module):
    """Pulls the fill to red."""

    def forward(self, predicted: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return -(predicted[:, 0] * mask[:, 0]).mean()


class Steeper(pl.Callback):
    """In eleven steps the discriminator's scores get steeper by a third each: R1 by (4 / 3)^22 = 560."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if 84 <= trainer.global_step < 95:
            *_, (name, last) = pl_module.discriminator.named_children()
            assert last[0].out_channels == 1, name
            last[0].weight.data.mul_(4 / 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("symptoms")
    write_data(folder / "data", train_images=36)
    return folder


@pytest.fixture
def warnings_of(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """`warnings_of(overrides…, reading=seconds)`: of a run on a clock that steps (1 s) and reading an image move."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(monitors, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def run(*overrides: str, reading: float = 0.0) -> list[str]:
        step, read = InpaintingModule.training_step, FolderSource.read

        def timed_step(*arguments: Any) -> None:
            step(*arguments)
            clock.now += 1

        def timed_read(*arguments: Any) -> Any:
            clock.now += reading
            return read(*arguments)

        monkeypatch.setattr(InpaintingModule, "training_step", timed_step)
        monkeypatch.setattr(FolderSource, "read", timed_read)
        with caplog.at_level(logging.WARNING, logger="saicinpainting.training.symptoms"):
            train(compose_run(root, *RUN, f"location.tb_dir={tmp_path / 'tb'}", *overrides), tmp_path / "run")
        return [r.getMessage() for r in caplog.records if r.name == "saicinpainting.training.symptoms"]

    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sound_run_says_nothing(warnings_of, seed: int):
    assert warnings_of(f"trainer.seed={seed}") == []


PLANTED = {
    "the discriminator has won": (
        "losses.adversarial.mask_as_fake_target=false", "optimizers.generator.lr=0", "optimizers.discriminator.lr=0.01",
    ),
    "the discriminator is blind": ("losses.adversarial.gp_coef=1000",),
    "the R1 penalty has grown": (
        "+callbacks.steeper._target_=tests.training.test_symptoms.Steeper", "trainer.kwargs.max_steps=116",
    ),
    "colour cast": ("+losses.extra.red={_target_: tests.training.test_symptoms.RedLoss, weight: 300}",),
}  # fmt: skip


@pytest.mark.parametrize(("finding", "overrides"), PLANTED.items())
def test_what_was_planted_in_a_run_is_found(warnings_of, finding: str, overrides: tuple[str, ...]):
    warnings = warnings_of(*overrides)
    assert sum(finding in warning for warning in warnings) == 1, warnings


def test_slow_reading_of_images_is_found(warnings_of):
    """0.1 s an image, four images: 0.4 of 1.4 seconds."""
    (warning,) = warnings_of("trainer.kwargs.max_steps=10", reading=0.1)
    assert warning.startswith("step 8: 29% of the time goes by waiting for data; raise data.num_workers")


# ---- on values of its own -------------------------------------------------------------------------------------------


def watch(rows: list[dict[str, float]], monitor: SymptomMonitor, caplog: Any, *, waiting: list[float] | None = None):
    """The steps of warnings when steps 1, 2, … log these values; `waiting`: share of the time, by step."""
    speed = SpeedMonitor()
    trainer = SimpleNamespace(log_every_n_steps=1, global_step=0, is_global_zero=True, callbacks=[speed, monitor])
    caplog.clear()
    monitor.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step, row in enumerate(rows):
        trainer.global_step = step + 1
        speed.latest = {"speed_data_wait_share": waiting[step]} if waiting else {}
        module = SimpleNamespace(latest_logs={name: torch.tensor(value) for name, value in row.items()})
        monitor.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    return [int(record.getMessage().split(":")[0].removeprefix("step ")) for record in caplog.records]


def monitor_of(**settings: Any) -> SymptomMonitor:
    return SymptomMonitor(**{"settle_steps": 2, "window": 3, "wait_steps": 3, **settings})


def test_a_cause_is_named_once_and_again_when_it_is_twice_as_bad(caplog):
    casts = [0.03] * 8 + [0.05] * 8 + [0.07] * 8
    rows = [{"cast_red": cast, "cast_green": 0.001, "cast_blue": -cast} for cast in casts]
    assert watch(rows, monitor_of(), caplog) == [5, 18]  # a mean of .0567 is less than twice .03, one of .0633 more
    assert "red +7.6, green +0.3, blue -7.6 of 255 levels" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"cast_red": 0.3}, {"cast_red": 0.3}] + [{"cast_red": 0.3}, {"cast_red": -0.3}] * 4, []),  # to either side
        ([{"cast_red": 0.019}] * 9, []),
        ([{"discr_adv": 0.04}] * 9, [5]),
        ([{"discr_adv": loss} for loss in [0.04] * 4 + [0.06] + [0.04] * 3], [8]),  # one of them is too high until then
        ([{"discr_adv": loss} for loss in [0.04] * 6 + [0.003] * 6], [5, 9]),
        ([{"adv_discr_real_out": 3.005, "adv_discr_fake_out": 3.0}] * 9, [5]),
        ([{"adv_discr_real_out": 3.015, "adv_discr_fake_out": 3.0}] * 9, []),
        ([{"adv_discr_real_gp": gp} for gp in [0.005] * 5 + [0.8] * 5], [7]),  # the median of three
        ([{"adv_discr_real_gp": gp} for gp in [0.005] * 5 + [0.4] * 5], []),  # outweighs nothing yet
        ([{"adv_discr_real_gp": gp} for gp in [0.02] * 5 + [0.8] * 5], []),  # 40 times
        ([{"adv_discr_real_gp": gp} for gp in [0.005] * 5 + [0.8] * 5 + [80.0] * 5], [7, 12]),
        ([{"discr_adv": float("nan")}] * 9, []),
        ([{"gen_l1": 1.0}] * 9, []),
        ([{}] * 9, []),
    ],
)
def test_thresholds_hold_over_a_window(rows: list[dict[str, float]], expected: list[int], caplog):
    assert watch(rows, monitor_of(), caplog) == expected


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.9] + [0.19] * 8, []),  # workers that start
        ([0.9] + [0.21] * 8, [4]),
        ([0.1] * 4 + [0.21, 0.21, 0.21], [7]),
        ([0.21] * 5 + [0.3] * 5, [4]),
        ([0.21] * 5 + [0.4] * 5, [4, 8]),  # twice as long as the work takes, measured by the time it takes
    ],
)
def test_waiting_is_judged_from_the_start_on(shares: list[float], expected: list[int], caplog):
    assert watch([{}] * len(shares), monitor_of(settle_steps=10**6), caplog, waiting=shares) == expected


def test_a_resumed_run_does_not_say_it_again(caplog):
    rows, first, second = [{"discr_adv": 0.04}] * 6, monitor_of(), monitor_of()
    assert watch(rows, first, caplog) == [5]
    second.load_state_dict(first.state_dict())
    assert watch(rows, second, caplog) == []


def test_only_rank_0_speaks(caplog):
    monitor = monitor_of()
    trainer = SimpleNamespace(log_every_n_steps=1, global_step=9, is_global_zero=False, callbacks=[])
    monitor.on_train_batch_end(trainer, SimpleNamespace(latest_logs={"discr_adv": torch.tensor(0.0)}))  # type: ignore
    assert monitor.state_dict()["values"] == {}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cast_is_the_difference_of_mean_colours_in_the_hole(channels: int):
    image, predicted = rand(0, 2, channels, 8, 8), rand(1, 2, channels, 8, 8)
    mask = (rand(2, 2, 1, 8, 8) > 0.6).float()
    hole = mask[:, 0].numpy() > 0
    found = colour_cast({"image": image, "inpainted": torch.where(mask > 0, predicted, image), "mask": mask})
    names = ["cast_red", "cast_green", "cast_blue"] if channels == 3 else ["cast_0"]
    for number, name in enumerate(names):
        expected = predicted[:, number].numpy()[hole].mean() - image[:, number].numpy()[hole].mean()
        assert float(found[name]) == pytest.approx(expected, abs=1e-6)
    assert len(found) == channels
    nothing = colour_cast({"image": image, "inpainted": image, "mask": torch.zeros_like(mask)})
    assert {float(value) for value in nothing.values()} == {0.0}


def test_every_run_has_a_monitor_unless_its_config_says_no():
    (monitor,) = make_callbacks(None)
    assert isinstance(monitor, SymptomMonitor)
    (monitor,) = make_callbacks({"symptoms": {"window": 7}})
    assert isinstance(monitor, SymptomMonitor)
    assert monitor.window == 7
    assert make_callbacks({"symptoms": None}) == []
