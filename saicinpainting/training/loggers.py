"""A run's loggers and further callbacks: the config groups `logger` and `callbacks`, names with a `_target_` each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from saicinpainting.training.checkpoints import is_left_out, of_validation
from saicinpainting.training.log_reports import run_name
from saicinpainting.utils import InputError, build_target, did_you_mean

Group = Mapping[str, Mapping[str, Any] | None] | None


def make_loggers(group: Group, *, tb_dir: str | Path, out_dir: Path) -> list[Logger]:
    """The loggers that the config section `logger` describes; TensorBoard's in `tb_dir` without one.

    A logger that takes `save_dir` and finds none in the config writes to `out_dir`, the run's folder; `name` and
    `run_name` are the folder's.
    """
    run = run_name(out_dir)
    if not group:
        return [TensorBoardLogger(tb_dir, name=run)]
    offered = {"save_dir": str(out_dir), "name": run, "run_name": run}
    return [_build(settings, f"logger.{name}", Logger, offered) for name, settings in group.items() if settings]


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Lightning's, for validations that do not measure all: it would take an older value for theirs.

    It looks when validation ends, as checkpoints are written then. At the end of the epoch a resumed run has no value.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._check_on_train_epoch_end is None and of_validation(self.monitor):
            self._check_on_train_epoch_end = False
        super().setup(trainer, pl_module, stage)

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        if is_left_out(self.monitor, trainer.lightning_module):
            return
        one: Any = trainer
        if self.strict and not one.fast_dev_run and self.monitor not in one.callback_metrics:
            raise InputError(
                f"callbacks: EarlyStopping.monitor={self.monitor} has no value after {one.global_step} steps (those of "
                f"training come every {one.log_every_n_steps} steps, trainer.kwargs.log_every_n_steps); "
                f"{did_you_mean(self.monitor, one.callback_metrics)}"
            )
        super()._run_early_stopping_check(trainer)


class DeviceStatsMonitor(pl.callbacks.DeviceStatsMonitor):
    """Lightning's, which says in time that it lacks a package."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if (on_cpu if self._cpu_stats is None else self._cpu_stats) and find_spec("psutil") is None:
            raise InputError(
                "callbacks: DeviceStatsMonitor measures a CPU by the package psutil, which is missing: pip install "
                "psutil, or set its cpu_stats to false"
            )
        super().setup(trainer, pl_module, stage)


_OURS = {cls.__base__: cls for cls in (EarlyStopping, DeviceStatsMonitor)}

# Callbacks of Lightning that change a step which this module takes by itself, and what does that here.
_ELSEWHERE = {
    "GradientAccumulationScheduler": "set data.total_batch_size or trainer.kwargs.accumulate_grad_batches",
    "BatchSizeFinder": "set data.batch_size; bin/plan.py tells the memory that it takes",
    "LearningRateFinder": "set optimizers.generator.lr and optimizers.discriminator.lr",
    "StochasticWeightAveraging": "set training_model.average_generator=true",
    "BaseFinetuning": "set training_model.frozen_parts",
    "SpikeDetection": "training_model.nonfinite and callbacks.symptoms look at losses",
}

DEFAULT_CALLBACKS = {"symptoms": {"_target_": "saicinpainting.training.symptoms.SymptomMonitor"}}
"""Of every run, unless its config sets them to null."""


def make_callbacks(group: Group) -> list[pl.Callback]:
    """The callbacks that the config section `callbacks` describes, besides those that nothing switches off."""
    described: dict[str, Any] = {**DEFAULT_CALLBACKS}
    for name, settings in (group or {}).items():
        described[name] = settings and {**DEFAULT_CALLBACKS.get(name, {}), **settings}
    found = []
    for name, settings in described.items():
        if settings:
            callback = _build(settings, f"callbacks.{name}", pl.Callback, {})
            callback.__class__ = _OURS.get(type(callback), type(callback))
            _check_takes_turns(callback, f"callbacks.{name}")
            found.append(callback)
    return found


def _check_takes_turns(callback: pl.Callback, where: str) -> None:
    for cls in type(callback).__mro__:
        if cls.__name__ in _ELSEWHERE and cls.__module__.startswith("pytorch_lightning."):
            raise InputError(
                f"{where}: {type(callback).__name__} does not go with two networks that train in turns; "
                f"{_ELSEWHERE[cls.__name__]}"
            )


def _build(settings: Mapping[str, Any], where: str, interface: type, offered: Mapping[str, Any]) -> Any:
    if settings.get("_target_") is None:
        raise InputError(
            f"{where}._target_: missing config key; set it to a {interface.__module__}.{interface.__name__}"
        )
    try:
        return build_target(settings, where=where, interface=interface, offered=offered)
    except ModuleNotFoundError as error:  # as Lightning's loggers say which package they need
        raise InputError(f"{where}: {error}") from error
