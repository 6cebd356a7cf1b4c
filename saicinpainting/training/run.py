"""One training run in one folder: data, module, Lightning trainer, checkpoints, logs."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from saicinpainting.config import register_resolvers, translate_trainer_kwargs
from saicinpainting.data.datamodule import DataSettings, InpaintingDataModule
from saicinpainting.io.checkpoint import remove_parts
from saicinpainting.io.files import write_whole
from saicinpainting.io.interpolations import check_interpolations
from saicinpainting.io.signals import EXIT_STATUS, StopSignals
from saicinpainting.networks.base import Generator
from saicinpainting.networks.load import image_channels_of
from saicinpainting.overrides import folders_with_shares
from saicinpainting.schema import read_section
from saicinpainting.training import micro_batches
from saicinpainting.training.checkpoints import CheckpointSettings, TensorsOnlyCheckpointIO, make_checkpoint_callback
from saicinpainting.training.epoch_loop import use_exact_epochs
from saicinpainting.training.factory import TRAINING_MODEL, make_training_model
from saicinpainting.training.finetune import finetune_path, start_from
from saicinpainting.training.interrupts import StopOnSignal, Stopped
from saicinpainting.training.lock import only_run_in
from saicinpainting.training.log_reports import event_files, run_name
from saicinpainting.training.loggers import make_callbacks, make_loggers
from saicinpainting.training.monitors import ProgressBar, watch
from saicinpainting.training.optimizers import OptimizerSettings
from saicinpainting.training.parts import Losses
from saicinpainting.training.process_logs import ignore_no_news
from saicinpainting.training.resume import ExactResume, check_resumable, resume_path
from saicinpainting.training.strategy import GeneratorSyncBatchNorm, Ranks, make_ddp_strategy
from saicinpainting.training.summary import describe_run, limited, warnings_of
from saicinpainting.utils import InputError, check_bool, check_known_keys, check_whole

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Config section `trainer`.

    Args:
        kwargs: of Lightning's Trainer, by its names; `max_epochs`, `precision`, `devices`, …
        checkpoint_kwargs: which checkpoints are kept, see `CheckpointSettings`.
        resume_from_checkpoint: a checkpoint or a run's folder to resume, or `auto`: this run's `last.ckpt` if
            there is one; null begins anew.
        resume_lr: a resumed run takes learning rates and schedules from the config, not from the checkpoint; the
            optimizers' moments stay.
        finetune_from: a checkpoint or a run's folder whose weights a new run starts from.
        seed: decides weights, order, augmentation and masks.
        profile: `torch` traces the steps `profile_steps`; `simple` writes Lightning's table of what took how long.
        profile_steps: from this step to before that one, counted from this start of the run; past the first ones,
            which allocate, compile and fill queues.
    """

    kwargs: dict[str, Any] = field(default_factory=dict)
    checkpoint_kwargs: dict[str, Any] = field(default_factory=dict)
    resume_from_checkpoint: str | None = None
    resume_lr: bool = False
    finetune_from: str | None = None
    seed: int | None = 0
    profile: Literal["simple", "torch"] | None = None
    profile_steps: list[int] = field(default_factory=lambda: [10, 15])

    @property
    def resume_from(self) -> str | None:
        """`resume_from_checkpoint`, which Lightning 1 had inside `kwargs`."""
        path = self.resume_from_checkpoint or self.kwargs.get("resume_from_checkpoint")
        return None if path == "None" else path


CONFIG_SECTIONS: dict[str, tuple[type, ...]] = {
    "training_model": TRAINING_MODEL,
    "losses": (Losses,),
    "data": (DataSettings,),
    "optimizers": (OptimizerSettings,),
    "trainer": (TrainerSettings,),
    "trainer.checkpoint_kwargs": (CheckpointSettings,),
}
"""The sections of a training config that are dataclasses, for their reference page (`schema.describe`)."""


def train(config: DictConfig, out_dir: str | Path, signals: StopSignals | None = None) -> None:
    """Train what `config` describes; `out_dir` becomes the run's folder.

    It gets `config.yaml`, `models/` (`last.ckpt`, `best.ckpt`, `epoch=….ckpt`) and `samples/`; TensorBoard files go
    under `location.tb_dir`. Every mistake that can be found beforehand is found before anything is computed.

    Args:
        config: a run file of `configs/training`, composed.
        out_dir: made if it does not exist; no other run may be going on in it.
        signals: those of the process, if a command watches them.

    Raises:
        InputError: something in the config, a missing folder, file or weight.
        Stopped: a signal ended the run, which has saved itself.
    """
    register_resolvers()
    ignore_no_news()
    out_dir = Path(out_dir).resolve()
    signals = signals or StopSignals()
    settings = _resolve(config)
    try:
        trainer = make_trainer(settings, out_dir, signals)
        with only_run_in(out_dir, signals) if trainer.is_global_zero else nullcontext():
            _train(settings, out_dir, trainer, signals)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
    LOGGER.info("finished: %s", out_dir)


def _train(settings: dict[str, Any], out_dir: Path, trainer: pl.Trainer, signals: StopSignals) -> None:
    section = read_section(TrainerSettings, settings["trainer"], where="trainer")
    resume_from = resume_path(section.resume_from, out_dir / "models")
    models = out_dir / "models"
    if any(models.glob("*.ckpt")) and not (resume_from and models.samefile(Path(resume_from).parent)):
        raise InputError(  # days of work for a word forgotten
            f"{models} holds the checkpoints of a run, which this one would write over; resume it by "
            "trainer.resume_from_checkpoint=auto, or set another hydra.run.dir"
        )
    finetune_from = finetune_path(
        section.finetune_from, resume_from=section.resume_from, resuming=resume_from is not None
    )
    seed = settings["trainer"]["seed"] = _seed(section.seed)
    data = make_data_module(settings, seed=seed)
    data.micro_batches = micro_batches.choose_micro_batches(
        section.kwargs,
        total=settings["data"].get("total_batch_size"),
        batch_size=data.micro_batch_size(),
        processes=trainer.world_size,
    )
    data.setup("fit")  # before anything heavy is built: a wrong folder is the commonest mistake
    judged_by = getattr(trainer.checkpoint_callback, "monitor", None) or ""
    if "_fid" in judged_by and data.images().get("data.val") == 1:
        raise InputError(
            f"trainer.checkpoint_kwargs.monitor={judged_by}: data.val has one image, of which there is no FID; add "
            "images, or set evaluator.fid=false, and checkpoints are judged by SSIM"
        )
    model = make_training_model({**settings, "visualizer": _visualizer_in(out_dir, settings["visualizer"])})
    model.micro_batches = data.micro_batches
    if isinstance(model.generator, Generator):
        data.require_sizes(model.generator.size_multiple, model.generator.min_size)
    if trainer.precision == "64-true":
        model.double()  # Lightning does so after it has loaded a checkpoint, whose weights would be rounded before
    if resume_from:
        check_resumable(resume_from, model)
    elif finetune_from:
        start_from(model, finetune_from)
    validate_every_epoch(trainer, data.train_batches(trainer.world_size))
    if trainer.is_global_zero:
        remove_parts(out_dir / "models")
        write_whole(out_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        LOGGER.info("the run:\n%s", describe_run(model, data, trainer, settings["data"].get("total_batch_size")))
        for line in data.describe_shares():
            LOGGER.info("data.train.indir: %s", line)
        for warning in warnings_of(model, data, trainer):
            LOGGER.warning("%s", warning)
        logs = Path(settings["location"]["tb_dir"], run_name(out_dir))
        if resume_from is None and event_files(logs):
            message = "location.tb_dir: %s has the logs of another run of this name; set another, or remove them"
            LOGGER.warning(message, logs)
    _fit(trainer, model, data, resume_from, signals)


def _seed(seed: int | None) -> int:
    if seed is None:
        # Processes that torchrun or SLURM starts could not agree on one, and Lightning would always take 0.
        raise InputError("trainer.seed: null draws none; for another one in each run: trainer.seed=$RANDOM")
    if not 0 <= seed < 2**32:
        raise InputError(f"trainer.seed: expected a whole number from 0 to {2**32 - 1}, got {seed!r}")
    return pl.seed_everything(seed, workers=True)


def _fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    resume_from: str | None,
    signals: StopSignals,
) -> None:
    ranks = Ranks(trainer.strategy.launcher)
    signals.before_leaving(ranks.kill)
    if ranks.all:
        signals.pass_on(ranks.send_when_started)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume_from)
    except Stopped:
        trainer.fit_loop.teardown()  # in a validation Lightning has ended the workers of that alone
        ranks.wait()
        raise
    except BaseException as error:
        ranks.kill()  # they would wait for this process for half an hour
        if _is_of_signal(error, signals):
            status = EXIT_STATUS if trainer.is_global_zero else 0
            signals.end_with(status, soon=True)
            if getattr(error, "exit_code", None) != EXIT_STATUS:  # no rank has saved the run
                LOGGER.warning("stopped by a signal; resumed, the run does the steps since its last checkpoint again")
            raise Stopped(status) from error
        signals.end_with(1)
        last = str(error).strip().rpartition("\n")[2]
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        if isinstance(error, ProcessRaisedException) and last.startswith(name):  # of a rank, as text
            raise InputError(last.removeprefix(name)) from error
        raise
    signals.end_with(0)


def _is_of_signal(error: BaseException, signals: StopSignals) -> bool:
    """Whether `error` says that another process, which this one needs, was stopped by a signal."""
    if isinstance(error, ProcessExitedException):  # a rank
        return signals.received is not None or error.exit_code == EXIT_STATUS
    return signals.received is not None and isinstance(error, RuntimeError)  # torch, of workers and ranks


def _visualizer_in(out_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The visualizer's settings with its folder inside the run's, whichever machine the config comes from."""
    folder = Path(settings.get("outdir", "samples"))
    if folder.is_absolute() and not folder.parent.is_dir():
        LOGGER.warning("visualizer.outdir: %s has no parent folder here; images go to samples/", folder)
        folder = Path("samples")
    return {**settings, "outdir": str(out_dir / folder)}


def _resolve(config: DictConfig) -> dict[str, Any]:
    """The whole config as plain values: what runs is what is saved."""
    check_interpolations(OmegaConf.to_container(config), map(str, config))
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    for name in ("trainer", "data", "location", "visualizer"):
        if not isinstance(settings.get(name), dict):
            raise InputError(f"{name}: this section is missing from the config; expected a mapping of settings")
    if not settings["location"].get("tb_dir"):
        raise InputError("location.tb_dir: missing config key; set it to a folder for TensorBoard's files")
    settings["location"]["tb_dir"] = os.path.abspath(settings["location"]["tb_dir"])  # found from any folder
    return {str(key): value for key, value in settings.items()}


def make_data_module(settings: Mapping[str, Any], *, seed: int = 0) -> InpaintingDataModule:
    """The data module of the sections `data` and `location`; `generator` says how many channels images have."""
    data = read_section(DataSettings, settings["data"], where="data")
    sets = {name: getattr(data, name) for name in ("train", "val", "visual_test", "extra_val")}
    indir = folders_with_shares(data.train.get("indir"))
    if isinstance(indir, Mapping):  # a config cannot have ${location…} in its keys
        root = settings["location"].get("data_root_dir") or ""
        indir = {os.path.join(root, str(key)): value for key, value in indir.items()}
    if indir is not None:
        sets["train"] = {**data.train, "indir": indir}
    channels, hint = image_channels_of(settings.get("generator") or {}), settings["location"].get("prepare", "")
    return InpaintingDataModule(**sets, prepare_hint=hint, seed=seed, image_channels=channels)


def make_trainer(settings: Mapping[str, Any], out_dir: Path, signals: StopSignals | None = None) -> pl.Trainer:
    """The Lightning trainer of the section `trainer`, with checkpoints in `out_dir/models`."""
    section = read_section(TrainerSettings, settings["trainer"], where="trainer")
    kwargs = _trainer_kwargs(section.kwargs)
    sync_batchnorm = kwargs.pop("sync_batchnorm", False)
    check_bool("trainer.kwargs.sync_batchnorm", sync_batchnorm)
    checkpoints = make_checkpoint_callback(settings, out_dir / "models")
    profiler, watchers = watch(section.profile, section.profile_steps, out_dir)
    stop = StopOnSignal(checkpoints, signals or StopSignals())
    further = make_callbacks(settings.get("callbacks"))
    callbacks: list[pl.Callback] = [ExactResume(), checkpoints, stop, *watchers, *further]
    has_bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in further)
    if kwargs.get("enable_progress_bar", True) and not has_bar:
        callbacks.append(ProgressBar(refresh_rate=10))  # each refresh waits for the device
    ours = {
        "callbacks": callbacks,
        "profiler": profiler,
        "logger": make_loggers(settings.get("logger"), tb_dir=settings["location"]["tb_dir"], out_dir=out_dir),
        "default_root_dir": out_dir,
        "plugins": [TensorsOnlyCheckpointIO(), *([GeneratorSyncBatchNorm()] if sync_batchnorm else [])],
        "use_distributed_sampler": False,  # the data module shares the images among the processes
    }
    if kwargs.get("accelerator") in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.mps.is_available()):
        raise InputError(
            "trainer.kwargs asks for GPUs, but PyTorch sees none on this machine; set trainer.kwargs.accelerator=cpu "
            "(Lightning 1: trainer.kwargs.gpus=0)"
        )
    try:
        trainer = pl.Trainer(**{**kwargs, **ours, "strategy": _strategy(kwargs)})
    except (ValueError, TypeError) as error:
        raise InputError(f"trainer.kwargs: {error}") from error
    if trainer.precision not in PRECISIONS:
        raise InputError(
            f"trainer.kwargs.precision={kwargs['precision']}: weights and losses are kept in float32; expected 32, "
            "bf16-mixed, 16-mixed or 64"
        )
    use_exact_epochs(trainer)
    return trainer


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")

# Keys of Lightning's Trainer that have another place here, and which.
_ELSEWHERE = {
    "logger": "choose the loggers by the config group logger, e.g. logger=csv",
    "callbacks": "trainer.checkpoint_kwargs configures the checkpoints, the config group callbacks adds others",
    "default_root_dir": "hydra.run.dir is the run's folder",
    "plugins": "use precision and strategy",
    "profiler": "trainer.profile is the switch",
    "barebones": "training needs its checkpoints and logs",
    "max_time": "a run ends cleanly on SIGTERM or SIGUSR1 and goes on later; max_steps and max_epochs limit it",
    "overfit_batches": "use limit_train_batches, or a folder of a few images",
    "use_distributed_sampler": "the processes share the images by themselves",
    "gradient_clip_algorithm": "gradients are clipped by their norm; set gradient_clip_val",
}


def _trainer_kwargs(section: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Lightning's Trainer from `trainer.kwargs`; those that are not for it are taken out or refused."""
    # Manual optimization: the module clips and accumulates.
    ours = {"resume_from_checkpoint", "gradient_clip_val", micro_batches.KEY}
    kwargs = {name: value for name, value in translate_trainer_kwargs(section).items() if name not in ours}
    for name in kwargs.keys() & _ELSEWHERE.keys():
        raise InputError(f"trainer.kwargs.{name} cannot be set: {_ELSEWHERE[name]}")
    check_known_keys(kwargs, inspect.signature(pl.Trainer).parameters.keys() - _ELSEWHERE, where="trainer.kwargs")
    return kwargs


def _strategy(kwargs: Mapping[str, Any]) -> Any:
    """`auto` stays Lightning's choice on one device and becomes DDP on several."""
    strategy = kwargs.get("strategy", "auto")
    if strategy != "auto":
        return make_ddp_strategy(strategy)
    probe = {key: kwargs[key] for key in ("accelerator", "devices", "num_nodes") if key in kwargs}
    several = pl.Trainer(**probe, logger=False, enable_checkpointing=False).world_size > 1
    return make_ddp_strategy("ddp") if several else "auto"


def validate_every_epoch(trainer: pl.Trainer, train_batches: int) -> None:
    """An interval past the end of the epoch, which Lightning refuses, means the end of the epoch.

    `train_batches`: of an epoch, in each process. Without `check_val_every_n_epoch` the interval counts batches over
    epochs and may be of any length.
    """
    if trainer.check_val_every_n_epoch is not None:
        check_whole("trainer.kwargs.check_val_every_n_epoch", trainer.check_val_every_n_epoch, least=1)
    limit = trainer.limit_train_batches
    for key, value in {
        "limit_train_batches": limit,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
    }.items():
        if value == 0:
            raise InputError(f"trainer.kwargs.{key}: 0 leaves no step to train; expected 1 or more, or null")
    # Lightning 2.6 takes a time, too, and has no such attribute then.
    interval = getattr(trainer, "val_check_interval", None)
    if not isinstance(interval, (int, float)) or interval <= 0:
        raise InputError(
            "trainer.kwargs.val_check_interval: expected steps (a whole number) or a share of an epoch (0.0 to 1.0) "
            "above 0"
        )
    train_batches = limited(train_batches, limit)
    if trainer.check_val_every_n_epoch is not None and isinstance(interval, int) and interval > train_batches:
        message = "trainer.kwargs.val_check_interval=%d, but an epoch has %d batches: validating after each epoch"
        LOGGER.warning(message, interval, train_batches)
        trainer.val_check_interval = 1.0
