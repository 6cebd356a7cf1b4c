"""Loggers and callbacks by the config groups of these names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from saicinpainting.config import CONFIGS
from saicinpainting.training.loggers import make_callbacks, make_loggers
from saicinpainting.training.run import make_trainer
from saicinpainting.utils import InputError
from tests.runs import compose_run, resolved


def group(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / "training" / f"{name}.yaml").read_text())


def test_without_a_logger_a_run_writes_to_tensorboard(tmp_path: Path):
    (logger,) = make_loggers(None, tb_dir=tmp_path / "tb", out_dir=tmp_path / "run")
    assert isinstance(logger, TensorBoardLogger)
    assert Path(logger.log_dir) == tmp_path / "tb" / "run" / "version_0"


def test_several_loggers_stand_beside_each_other(tmp_path: Path):
    sections = {
        **group("logger/csv"),
        "tensorboard": {**group("logger/tensorboard")["tensorboard"], "save_dir": tmp_path},
    }
    loggers = make_loggers(sections, tb_dir=tmp_path / "tb", out_dir=tmp_path / "run")
    assert [type(logger) for logger in loggers] == [CSVLogger, TensorBoardLogger]
    assert Path(loggers[0].log_dir or "") == tmp_path / "run" / "csv" / "version_0"
    assert Path(loggers[1].log_dir or "") == tmp_path / "run" / "version_0"


@pytest.mark.clients
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_loggers_of_other_services_are_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)  # where MLflow begins its database
    sections = group(f"logger/{name}")
    if name == "wandb":
        sections["wandb"]["offline"] = True
    (logger,) = make_loggers(sections, tb_dir=tmp_path, out_dir=tmp_path / "run")
    assert type(logger).__name__.lower() == f"{name}logger"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_client_that_is_not_installed_is_named(name: str, tmp_path: Path):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=rf"logger\.{name}: .*{name}"):
        make_loggers(group(f"logger/{name}"), tb_dir=tmp_path, out_dir=tmp_path)


def test_callbacks_are_lightnings_or_refused():
    (stopping,) = make_callbacks({**group("callbacks/early_stopping"), "off": None, "symptoms": None})
    assert isinstance(stopping, EarlyStopping)
    assert (stopping.monitor, stopping.patience) == ("val_ssim_total_mean", 10)
    with pytest.raises(InputError, match=r"callbacks\.mine\._target_: torch\.nn\.ReLU gives a ReLU, .*Callback"):
        make_callbacks({"mine": {"_target_": "torch.nn.ReLU"}})
    with pytest.raises(InputError, match=r"callbacks\.mine\._target_: missing config key"):
        make_callbacks({"mine": {"monitor": "val"}})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("GradientAccumulationScheduler", {"scheduling": {0: 2}}, "data.total_batch_size"),
        ("BatchSizeFinder", {}, "data.batch_size"),
        ("LearningRateFinder", {}, r"optimizers\.generator\.lr"),
        ("StochasticWeightAveraging", {"swa_lrs": 0.1}, "average_generator=true"),
        ("BackboneFinetuning", {}, "frozen_parts"),
    ],
)
def test_callbacks_that_change_the_step_are_answered_with_what_does_that_here(name, settings, message):
    described = {"mine": {"_target_": f"pytorch_lightning.callbacks.{name}", **settings}}
    with pytest.raises(InputError, match=rf"^callbacks\.mine: {name} .*{message}"):
        make_callbacks(described)


def test_a_package_that_the_device_s_counters_need_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("saicinpainting.training.loggers.find_spec", lambda name: None)
    (monitor,) = make_callbacks({**group("callbacks/device_stats"), "symptoms": None})
    trainer: Any = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    with pytest.raises(InputError, match=r"DeviceStatsMonitor .* psutil, which is missing: pip install psutil"):
        monitor.setup(trainer, pl.LightningModule(), "fit")


def test_a_progress_bar_of_one_s_own_takes_the_place_of_the_usual_one(tmp_path: Path):
    bar = "+callbacks.bar={_target_: pytorch_lightning.callbacks.TQDMProgressBar, refresh_rate: 50}"
    trainer: Any = make_trainer(resolved(compose_run(tmp_path, bar)), tmp_path)
    assert [one.refresh_rate for one in trainer.callbacks if isinstance(one, pl.callbacks.ProgressBar)] == [50]
