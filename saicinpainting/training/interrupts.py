"""Stopping a run so that it can be resumed: schedulers send a signal before they take the machine away."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed

from saicinpainting.io.signals import EXIT_STATUS, StopSignals
from saicinpainting.training.checkpoints import BestModelCheckpoint
from saicinpainting.training.epoch_loop import StepEndCallback

LOGGER = logging.getLogger(__name__)


class Stopped(SystemExit):
    """The run has saved itself and ends; process 0 with `EXIT_STATUS`.

    The others end with 0, or Lightning, which watches the processes that it has started, would kill process 0.
    """


class StopOnSignal(StepEndCallback):
    """After a signal: ends the step under way, writes `last.ckpt` and raises `Stopped`.

    Within a validation `last.ckpt` is written already, and the run repeats the validation when it is resumed.

    The signal may reach one process or all. Processes vote after every step and every batch of a validation and read
    the vote at the next one, so that none waits for it and all stop at the same place.
    """

    def __init__(self, checkpoints: BestModelCheckpoint, signals: StopSignals) -> None:
        self._checkpoints = checkpoints
        self._signals = signals
        self._group: Any = None
        self._vote: tuple[Any, torch.Tensor] | None = None
        self._common_batches: list[int] = []  # of each evaluation set, that every process has

    # Lightning sets handlers of its own before; they save in the middle of a step and wait for other processes in it.
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._signals.listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._signals.listen()
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        self._signals.save_first()

    def on_step_end(self, trainer: pl.Trainer) -> None:
        if self._agreed():
            self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._group is not None and not trainer.sanity_checking:
            batches = torch.tensor(trainer.num_val_batches, dtype=torch.int64)
            distributed.all_reduce(batches, distributed.ReduceOp.MIN, group=self._group)
            self._common_batches = batches.tolist()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        votes = self._group is None or batch_idx < self._common_batches[dataloader_idx]
        if votes and self._agreed():
            self._stop(trainer, "in a validation ")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the metrics, for which processes wait for each other in any case."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and (self._agreed() or self._read_vote()):
            self._stop(trainer, "in a validation ")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read_vote()

    def _agreed(self) -> bool:
        """Whether to stop, as all processes see it: they call this together."""
        if self._group is None:
            return self._signals.received is not None
        if self._read_vote():
            return True
        vote = torch.tensor([int(self._signals.received is not None)])
        work = distributed.all_reduce(vote, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._vote = (work, vote)
        return False

    def _read_vote(self) -> bool:
        """Whether any process had received a signal at the latest vote; waits for the slowest to come so far."""
        if self._vote is None:
            return False
        work, vote = self._vote
        self._vote = None
        work.wait()
        return bool(vote.item())

    def _stop(self, trainer: pl.Trainer, where: str = "") -> None:
        path = self._checkpoints.write_last(trainer)
        status = EXIT_STATUS if trainer.is_global_zero else 0
        self._signals.end_with(status, soon=True)
        if trainer.is_global_zero:
            LOGGER.warning(
                f"stopped by {self._signals.received or 'a signal to another process'} {where}after "
                f"{trainer.global_step} steps; {path} is written, and the same command with "
                f"hydra.run.dir={path.parent.parent} trainer.resume_from_checkpoint=auto goes on from there"
            )
        raise Stopped(status)
