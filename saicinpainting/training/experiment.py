"""One training run in one folder: data, module, Lightning trainer, checkpoints, logs."""

from __future__ import annotations

import inspect
import logging
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from saicinpainting.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.config import register_resolvers, translate_checkpoint_kwargs, translate_trainer_kwargs
from saicinpainting.training.data.datamodule import InpaintingDataModule
from saicinpainting.training.trainers import make_training_model
from saicinpainting.utils import InputError, call_with_settings, count_parameters, did_you_mean

LOGGER = logging.getLogger(__name__)

TRAINER_KEYS = ("kwargs", "checkpoint_kwargs", "resume_from_checkpoint", "seed")


def train(config: DictConfig, out_dir: str | Path) -> None:
    """Train what `config` describes; `out_dir` becomes the experiment folder.

    It gets `config.yaml`, `models/` (`last.ckpt`, `best.ckpt`, `epoch=….ckpt`) and `samples/`; TensorBoard files go
    under `location.tb_dir`. Every mistake that can be found beforehand is found before anything is computed.

    Raises:
        InputError: something in the config, a missing folder, file or weight.
    """
    register_resolvers()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of what torch deprecates
    out_dir = Path(out_dir).resolve()
    settings = _resolve(config)
    resume_from = _resume_path(settings["trainer"])
    data = make_data_module(settings)
    data.setup("fit")  # before anything heavy is built: a wrong folder is the commonest mistake
    settings["visualizer"]["outdir"] = str(out_dir / settings["visualizer"].get("outdir", "samples"))
    pl.seed_everything(settings["trainer"].get("seed", 0), workers=True)
    model = make_training_model(settings)
    try:
        trainer = make_trainer(settings, out_dir, train_batches=len(data.train_dataloader()))
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
    if trainer.is_global_zero:
        out_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(settings), out_dir / "config.yaml")
        LOGGER.info("generator: %.2fM parameters", count_parameters(model.generator) / 1e6)
    trainer.fit(model, datamodule=data, ckpt_path=resume_from)
    LOGGER.info("finished: %s", out_dir)


def _resolve(config: DictConfig) -> dict[str, Any]:
    """The whole config as plain values: what runs is what is saved."""
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    for name in ("trainer", "data", "location", "visualizer"):
        if not isinstance(settings.get(name), dict):
            raise InputError(f"{name}: this section is missing from the config; expected a mapping of settings")
    return {str(key): value for key, value in settings.items()}


def make_data_module(settings: Mapping[str, Any]) -> InpaintingDataModule:
    """The data module of the sections `data` and `location`."""
    data = settings["data"]
    known = ("train", "val", "visual_test", "extra_val", "batch_size", "val_batch_size", "num_workers")
    for name in data:
        if name not in known:
            raise InputError(f"data.{name}: unknown config key; {did_you_mean(name, known)}")
    for name in ("train", "val"):
        if not data.get(name):
            raise InputError(f"data.{name}: missing; training needs a training and a validation set")
    return InpaintingDataModule(
        train=data["train"],
        val=data["val"],
        visual_test=data.get("visual_test"),
        extra_val=data.get("extra_val"),
        prepare_hint=settings["location"].get("prepare", ""),
    )


def make_trainer(settings: Mapping[str, Any], out_dir: Path, *, train_batches: int) -> pl.Trainer:
    """The Lightning trainer of the section `trainer`, with checkpoints in `out_dir/models`."""
    section = settings["trainer"]
    for name in section:
        if name not in TRAINER_KEYS:
            raise InputError(f"trainer.{name}: unknown config key; {did_you_mean(name, TRAINER_KEYS)}")
    kwargs = translate_trainer_kwargs(section.get("kwargs") or {})
    kwargs.pop("resume_from_checkpoint", None)
    kwargs.pop("gradient_clip_val", None)  # manual optimization: the module clips
    known = set(inspect.signature(pl.Trainer).parameters)
    for name in kwargs:
        if name not in known:
            raise InputError(f"trainer.kwargs.{name}: unknown config key; {did_you_mean(name, known)}")
    logger = TensorBoardLogger(settings["location"]["tb_dir"], name=out_dir.name)
    trainer = pl.Trainer(
        **{
            **kwargs,
            "strategy": _strategy(kwargs),
            "callbacks": [_checkpoints(settings, out_dir), LearningRateMonitor(), TQDMProgressBar()],
            "logger": logger,
            "default_root_dir": out_dir,
            "plugins": [TensorsOnlyCheckpointIO()],
        }
    )
    _validate_every_epoch(trainer, math.ceil(train_batches / trainer.world_size))
    return trainer


def _strategy(kwargs: Mapping[str, Any]) -> Any:
    """DDP has to look for unused parameters: each of the two backward passes uses one network alone.

    `auto` stays Lightning's choice on one device and becomes DDP on several.
    """
    strategy = kwargs.get("strategy", "auto")
    if strategy == "auto":
        probe = {key: kwargs[key] for key in ("accelerator", "devices", "num_nodes") if key in kwargs}
        several = pl.Trainer(**probe, logger=False, enable_checkpointing=False).world_size > 1
        strategy = "ddp" if several else "auto"
    return "ddp_find_unused_parameters_true" if strategy == "ddp" else strategy


def _validate_every_epoch(trainer: pl.Trainer, train_batches: int) -> None:
    """An interval past the end of the epoch, which Lightning refuses, means the end of the epoch."""
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    if type(limit) is int:
        train_batches = min(train_batches, limit)
    if type(interval) is int and interval > train_batches:
        LOGGER.warning(
            "trainer.kwargs.val_check_interval=%d, but an epoch has %d batches: validating at the end of each epoch",
            interval,
            train_batches,
        )
        trainer.val_check_interval = 1.0


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class TensorsOnlyCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written whole or not at all and read without executing what they carry."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        # Tensors and plain values only, whatever `weights_only` says (Lightning before 2.6 does not ask).
        return read_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class BestModelCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, where prediction looks for it, equal to the best checkpoint of this run so far."""

    # Lightning saves in one hook or the other, as validation falls.
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._update_best(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._update_best(trainer)

    def _update_best(self, trainer: pl.Trainer) -> None:
        best = Path(self.best_model_path)
        # A resumed run starts with the best of the folder it comes from, which is not to be touched.
        if trainer.is_global_zero and best.is_file() and str(best.parent) == str(self.dirpath):
            _replace_by_link(best, best.with_name("best.ckpt"))


def _replace_by_link(source: Path, target: Path) -> None:
    if target.exists() and os.path.samefile(source, target):
        return  # renaming one link onto another of the same file does nothing, and would leave the first behind
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, part)
    os.replace(part, target)


def _checkpoints(settings: Mapping[str, Any], out_dir: Path) -> ModelCheckpoint:
    kwargs = translate_checkpoint_kwargs(settings["trainer"].get("checkpoint_kwargs") or {})
    _check_monitor(kwargs.get("monitor"), settings.get("evaluator"))

    def make(
        monitor: str | None = None,
        mode: str = "max",
        save_top_k: int = 5,
        save_last: bool = True,
        verbose: bool = False,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
        save_weights_only: bool = False,
        filename: str | None = None,
        auto_insert_metric_name: bool = True,
    ) -> ModelCheckpoint:
        return BestModelCheckpoint(
            dirpath=out_dir / "models",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=save_last,
            verbose=verbose,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            save_weights_only=save_weights_only,
            filename=filename,
            auto_insert_metric_name=auto_insert_metric_name,
            enable_version_counter=False,
        )

    return call_with_settings(make, kwargs, where="trainer.checkpoint_kwargs")


def _check_monitor(monitor: str | None, evaluator: Mapping[str, Any] | None) -> None:
    """Find out now, not after the first epoch, that the monitored metric is not computed."""
    metrics = {name for name in ("ssim", "lpips", "fid") if evaluator and evaluator.get(name, True)}
    needs = {name for name in ("ssim", "lpips", "fid") if monitor and name in monitor.split("_total")[0]}
    if needs - metrics:
        instead = f"val_{sorted(metrics, key='ssim lpips fid'.find)[0]}_total_mean" if metrics else "val_gen_l1"
        raise InputError(
            f"trainer.checkpoint_kwargs.monitor={monitor} needs {', '.join(sorted(needs - metrics))}, which the "
            f"evaluator does not compute; switch it on or set trainer.checkpoint_kwargs.monitor={instead}"
        )


def _resume_path(section: Mapping[str, Any]) -> str | None:
    """`trainer.resume_from_checkpoint`, or the same key inside `trainer.kwargs` as Lightning 1 had it."""
    path = section.get("resume_from_checkpoint") or (section.get("kwargs") or {}).get("resume_from_checkpoint")
    if path in (None, "None"):
        return None
    if not Path(path).is_file():
        raise InputError(f"trainer.resume_from_checkpoint: {path} does not exist; nothing was trained")
    return str(path)
