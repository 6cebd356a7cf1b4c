"""Resuming exactly where a run stopped, between two epochs or after any step of one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.io.checkpoint import FROZEN_PREFIXES, read_checkpoint, without_prefixes
from saicinpainting.training.epoch_loop import ExactEpochLoop
from saicinpainting.training.load import check_fit
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.optimizers import NAMES
from saicinpainting.training.summary import limited
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

AUTO = "auto"
POSITION = "position"  # the checkpoint's key for what Lightning's counters do not tell


class Progress(NamedTuple):
    """How far a run has come, from Lightning's counters in a checkpoint."""

    epoch: int  # epochs that are complete
    batches: int  # batches of the next one that are done
    total: int  # batches of all epochs


def progress_of(loops: Mapping[str, Any]) -> Progress:
    """Read `loops["fit_loop"]` of a checkpoint, whichever hook it was written in."""
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    epoch, done = epochs["processed"], batches["current"]["processed"]
    total = batches["total"]["processed"]
    if epochs["ready"] > epoch:
        return Progress(epoch, done, total)  # also after the last batch: what belongs to the epoch's end is to come
    if done and not batches["is_last_batch"]:
        return Progress(epoch - 1, done, total)  # max_steps ended the run, and Lightning counts the epoch as complete
    return Progress(epoch, 0, total)


def _at_rest(loops: Mapping[str, Any], progress: Progress, *, step_ends: bool) -> dict[str, Any]:
    """`loops["fit_loop"]` with the counters of a run that waits between two epochs."""
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    return {
        **loops,
        "epoch_progress": {name: dict.fromkeys(tracker, progress.epoch) for name, tracker in epochs.items()},
        "epoch_loop.batch_progress": {
            "total": dict.fromkeys(batches["total"], progress.total),
            "current": dict.fromkeys(batches["current"], 0),
            "is_last_batch": False,
        },
        # Loggers count steps by this; the end of a step raises it.
        "epoch_loop.state_dict": {"_batches_that_stepped": progress.total - int(step_ends)},
    }


class ExactResume(pl.Callback):
    """Writes the position into every checkpoint and starts the loops and the data there.

    Which random numbers a batch gets follows from its position (`data/sampler.py`), so none are saved.
    """

    def __init__(self) -> None:
        self._step_ends = False  # the end of the latest step, with its validation, is to come
        self._logged: dict[str, torch.Tensor] = {}  # before the resume

    def on_train_batch_end(self, *_: Any) -> None:
        self._step_ends = True

    def on_validation_end(self, *_: Any) -> None:
        self._step_ends = False

    def on_train_epoch_end(self, *_: Any) -> None:
        self._step_ends = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data = _data_of(trainer)
        if data is None:
            return
        progress = progress_of(checkpoint["loops"]["fit_loop"])
        checkpoint[POSITION] = {
            "step_ends": self._step_ends,
            "images": data.images_done(progress.epoch, progress.batches),  # of the epoch, over all processes
            "train_images": data.train_images(),
            "shares": data.shares(),
            "batch_size": data.batch_size(),  # over all processes
            "seed": data.seed,
            "logged": {
                name: torch.as_tensor(value).cpu() for name, value in trainer.callback_metrics.items()
            },  # last, for callbacks
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data = _data_of(trainer)
        if data is None:
            return
        loops = checkpoint["loops"]
        progress = progress_of(loops["fit_loop"])
        position = checkpoint.get(POSITION, {})  # without it: written before positions were, at the end of an epoch
        step_ends = bool(position.get("step_ends", False))
        self._logged = position.get("logged", {})
        images = position.get("images", data.images_done(progress.epoch, progress.batches))
        limit = trainer.limit_train_batches
        last = limited(data.train_batches(), limit)
        most = limit if isinstance(limit, int) else None  # a share of the images is a share in any batches
        batch = data.begin_at(progress.epoch, images, steps=progress.batches, limit=most)
        if progress.batches:
            _report_changes(position, data)
        epochs = progress.epoch + (batch >= last)
        _report_end(trainer, epochs, checkpoint["global_step"])
        checkpoint["loops"] = {**loops, "fit_loop": _at_rest(loops["fit_loop"], progress, step_ends=step_ends)}
        loop = trainer.fit_loop.epoch_loop
        assert isinstance(loop, ExactEpochLoop)
        loop.enter_at(batch, step_ends=step_ends)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = _data_of(trainer)
        for name, images in (data.images() if data else {}).items():
            _check_equal(trainer, f"{name}.indir", "images: every machine needs the same files", images)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        where = "trainer.resume_from_checkpoint"
        _check_equal(trainer, where, "steps: every machine must see the same checkpoint", trainer.global_step)
        # What early stopping and checkpoints are judged by may come of the step before.
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in self._logged.items()})


def _check_equal(trainer: pl.Trainer, where: str, what: str, count: int) -> None:
    """All processes must have the same data and steps, or they would wait for each other for ever."""
    first = trainer.strategy.broadcast(count)
    if count != first:
        raise InputError(f"{where}: process {trainer.global_rank} has {count}, process 0 {first} {what}")


def _data_of(trainer: pl.Trainer) -> InpaintingDataModule | None:
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, InpaintingDataModule) else None


def _report_end(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Say that the run had its epochs or steps already; the limits are -1 or None where there are none."""
    for name, done, limit in (("max_epochs", epochs, trainer.max_epochs), ("max_steps", steps, trainer.max_steps)):
        if limit is not None and 0 <= limit <= done:
            message = "resuming: %d of trainer.kwargs.%s=%d are done, nothing is left to train; raise it to go on"
            LOGGER.warning(message, done, name, limit)


def _report_changes(position: Mapping[str, Any], data: InpaintingDataModule) -> None:
    """Say what the rest of an epoch cannot repeat, because the config or the data have changed."""
    twice = "in the rest of this epoch some images come twice and others not at all"
    for name, now, effect in (
        ("seed", data.seed, twice),
        ("train_images", data.train_images(), twice),
        ("shares", data.shares(), twice),
        ("batch_size", data.batch_size(), f"the epoch goes on after {position.get('images')} of its images"),
    ):
        if position.get(name, now) != now:
            LOGGER.warning("resuming: %s was %s, now %s; %s", name, position[name], now, effect)


# ---- which checkpoint -----------------------------------------------------------------------------------------------


def resume_path(path: str | None, folder: Path) -> str | None:
    """The checkpoint that `trainer.resume_from_checkpoint`, `path`, asks for; None to begin anew.

    `auto` takes the latest one in `folder`, this run's, and begins anew where there is none.

    Raises:
        InputError: the file does not exist, is damaged or holds no run. The message names the latest one beside it
            that can be resumed.
    """
    if path is None:
        return None
    if path == AUTO:
        return _latest_in(folder)
    if Path(path).is_dir():
        inside = [Path(path) / "models" / "last.ckpt", Path(path) / "last.ckpt"]
        found = next((str(file) for file in inside if file.is_file()), None)
        if found is None:
            raise InputError(f"trainer.resume_from_checkpoint: no models/last.ckpt or last.ckpt in the folder {path}")
        path = found
    if not Path(path).is_file():
        raise InputError(f"trainer.resume_from_checkpoint: {path} does not exist; nothing was trained")
    try:
        _read_run(Path(path))
    except InputError as error:
        older = _latest_whole(Path(path).parent, besides=Path(path))
        hint = f"; resume from {older}" if older else "; there is no other checkpoint beside it to resume from"
        raise InputError(f"trainer.resume_from_checkpoint: {error}{hint}") from error
    return str(path)


def _latest_in(folder: Path) -> str | None:
    if not any(folder.glob("*.ckpt")):
        LOGGER.warning(
            "trainer.resume_from_checkpoint=auto: nothing to resume in %s, the run begins. No other folder is "
            "searched: give every start the same hydra.run.dir",
            folder,
        )
        return None
    last = folder / "last.ckpt"
    if last.is_file():
        try:
            _read_run(last)
            return str(last)
        except InputError as error:
            LOGGER.warning("%s", error)
    older = _latest_whole(folder, besides=last)
    if older is None:
        raise InputError(
            f"trainer.resume_from_checkpoint=auto: no checkpoint in {folder} can be resumed; remove them to begin anew"
        )
    LOGGER.warning("resuming from %s%s", older, f" instead of {last}" if last.is_file() else ": there is no last.ckpt")
    return str(older)


def _read_run(path: Path) -> dict[str, Any]:
    """A checkpoint that a run can be resumed from.

    Raises:
        InputError: it is damaged, or holds something else.
    """
    checkpoint = read_checkpoint(path)
    lacks = [key for key in ("optimizer_states", "loops", "global_step", "epoch", "callbacks") if key not in checkpoint]
    if lacks:
        raise InputError(
            f"{path} lacks {', '.join(lacks)}: it holds weights to predict with, not the state of a run of this "
            "framework (trainer.finetune_from starts a run from them)"
        )
    try:
        progress_of(checkpoint["loops"]["fit_loop"])
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: its loops are not those of a run of this framework ({error!r})") from error
    return checkpoint


def _latest_whole(folder: Path, besides: Path) -> Path | None:
    """The checkpoint in `folder` with the most steps that a run can be resumed from."""
    steps: dict[Path, int] = {}
    for path in sorted(folder.glob("*.ckpt")):
        if not path.is_file() or (besides.exists() and path.samefile(besides)):
            continue
        try:
            steps[path] = _read_run(path)["global_step"]
        except InputError:
            continue
    # best.ckpt is the same file as one of the others, whose name tells more.
    return max(steps, key=lambda path: (steps[path], path.name != "best.ckpt"), default=None)


def check_resumable(path: str, model: InpaintingModule) -> None:
    """An `InputError` unless a run of `model` can be resumed from `path`."""
    checkpoint = _read_run(Path(path))
    check_fit(model, without_prefixes(checkpoint["state_dict"], FROZEN_PREFIXES), path, prefix="")
    model.schedules.check_resumable(checkpoint, path)
    for name, optimizer in zip(NAMES, checkpoint["optimizer_states"], strict=False):
        trained = sum(len(group["params"]) for group in optimizer["param_groups"])
        if trained != (now := len(model.trained_parameters(name))):
            raise InputError(
                f"trainer.resume_from_checkpoint: {path} trained {trained} parameters of the {name}, this config "
                f"trains {now}: training_model.frozen_parts has changed; set it as it was, or begin anew from these "
                "weights by trainer.finetune_from"
            )
