"""A run's loggers and further callbacks: the config groups `logger` and `callbacks`, names with a `_target_` each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from saicinpainting.training.checkpoints import is_left_out, of_validation
from saicinpainting.training.log_reports import run_name
from saicinpainting.utils import InputError, build_target

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
        if not is_left_out(self.monitor, trainer.lightning_module):
            super()._run_early_stopping_check(trainer)


DEFAULT_CALLBACKS = {"symptoms": {"_target_": "saicinpainting.training.symptoms.SymptomMonitor"}}
"""Of every run, unless its config sets them to null."""


def make_callbacks(group: Group) -> list[pl.Callback]:
    """The callbacks that the config section `callbacks` describes, besides those that nothing switches off."""
    described: dict[str, Any] = {**DEFAULT_CALLBACKS}
    for name, settings in (group or {}).items():
        described[name] = settings and {**DEFAULT_CALLBACKS.get(name, {}), **settings}
    found = [_build(settings, f"callbacks.{name}", pl.Callback, {}) for name, settings in described.items() if settings]
    for callback in found:
        if type(callback) is pl.callbacks.EarlyStopping:
            callback.__class__ = EarlyStopping
    return found


def _build(settings: Mapping[str, Any], where: str, interface: type, offered: Mapping[str, Any]) -> Any:
    if settings.get("_target_") is None:
        raise InputError(
            f"{where}._target_: missing config key; set it to a {interface.__module__}.{interface.__name__}"
        )
    try:
        return build_target(settings, where=where, interface=interface, offered=offered)
    except ModuleNotFoundError as error:  # as Lightning's loggers say which package they need
        raise InputError(f"{where}: {error}") from error
