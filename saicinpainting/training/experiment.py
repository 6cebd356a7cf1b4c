"""One training run in one folder: data, module, Lightning trainer, checkpoints, logs."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from saicinpainting.config import register_resolvers, translate_trainer_kwargs
from saicinpainting.training.checkpoints import (
    TensorsOnlyCheckpointIO,
    check_resumable,
    make_checkpoint_callback,
    resume_path,
)
from saicinpainting.training.data.datamodule import InpaintingDataModule
from saicinpainting.training.trainers import make_training_model
from saicinpainting.utils import InputError, check_known_keys, count_parameters

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
    resume_from = resume_path(settings["trainer"])
    data = make_data_module(settings)
    data.setup("fit")  # before anything heavy is built: a wrong folder is the commonest mistake
    seed = settings["trainer"].get("seed", 0)
    pl.seed_everything(seed, workers=True)
    model = make_training_model({**settings, "visualizer": _visualizer_in(out_dir, settings["visualizer"])})
    if resume_from:
        # Of the epoch too, or a resumed run would see the images in the order of its first epoch again.
        pl.seed_everything(seed + check_resumable(resume_from, model), workers=True)
    try:
        trainer = make_trainer(settings, out_dir, train_batches=len(data.train_dataloader()))
        if trainer.is_global_zero:
            out_dir.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.create(settings), out_dir / "config.yaml")
            LOGGER.info("generator: %.2fM parameters", count_parameters(model.generator) / 1e6)
        trainer.fit(model, datamodule=data, ckpt_path=resume_from)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
    LOGGER.info("finished: %s", out_dir)


def _visualizer_in(out_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The visualizer's settings with its folder inside the run's.

    A config that comes from another machine may hold a folder of that machine, which is not to be made here.
    """
    folder = Path(settings.get("outdir", "samples"))
    if folder.is_absolute() and not folder.parent.is_dir():
        LOGGER.warning("visualizer.outdir: %s has no parent folder here; pictures go to samples/", folder)
        folder = Path("samples")
    return {**settings, "outdir": str(out_dir / folder)}


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
    check_known_keys(data, known, where="data")
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
    check_known_keys(section, TRAINER_KEYS, where="trainer")
    kwargs = _trainer_kwargs(section.get("kwargs") or {})
    callbacks: list[pl.Callback] = [make_checkpoint_callback(settings, out_dir / "models"), LearningRateMonitor()]
    if kwargs.get("enable_progress_bar", True):
        callbacks.append(TQDMProgressBar())
    trainer = pl.Trainer(
        **{
            **kwargs,
            "strategy": _strategy(kwargs),
            "callbacks": callbacks,
            "logger": TensorBoardLogger(settings["location"]["tb_dir"], name=out_dir.name),
            "default_root_dir": out_dir,
            "plugins": [TensorsOnlyCheckpointIO()],
        }
    )
    _validate_every_epoch(trainer, math.ceil(train_batches / trainer.world_size))
    return trainer


# Keys of Lightning's Trainer that have another place here, and which.
_ELSEWHERE = {
    "logger": "location.tb_dir says where TensorBoard writes",
    "callbacks": "trainer.checkpoint_kwargs configures the checkpoints",
    "default_root_dir": "hydra.run.dir is the run's folder",
    "plugins": "use precision and strategy",
    "gradient_clip_algorithm": "gradients are clipped by their norm; set gradient_clip_val",
    "accumulate_grad_batches": "the two networks take turns every batch; use a larger data.batch_size",
}


def _trainer_kwargs(section: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Lightning's Trainer from `trainer.kwargs`; those that are not for it are taken out or refused."""
    kwargs = translate_trainer_kwargs(section)
    kwargs.pop("resume_from_checkpoint", None)
    kwargs.pop("gradient_clip_val", None)  # manual optimization: the module clips
    if kwargs.get("accumulate_grad_batches") in (None, 1):
        kwargs.pop("accumulate_grad_batches", None)
    known = set(inspect.signature(pl.Trainer).parameters) - _ELSEWHERE.keys()
    for name in kwargs:
        if name in _ELSEWHERE:
            raise InputError(f"trainer.kwargs.{name} cannot be set: {_ELSEWHERE[name]}")
    check_known_keys(kwargs, known, where="trainer.kwargs")
    return kwargs


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
    """An interval past the end of the epoch, which Lightning refuses, means the end of the epoch.

    Without `check_val_every_n_epoch` the interval counts batches over epochs and may be of any length.
    """
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    if limit is not None:
        train_batches = min(train_batches, limit if isinstance(limit, int) else int(train_batches * limit))
    if trainer.check_val_every_n_epoch is not None and isinstance(interval, int) and interval > train_batches:
        LOGGER.warning(
            "trainer.kwargs.val_check_interval=%d, but an epoch has %d batches: validating at the end of each epoch",
            interval,
            train_batches,
        )
        trainer.val_check_interval = 1.0
