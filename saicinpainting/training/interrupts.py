"""Stopping a run from outside, so that it can go on: schedulers send a signal before they take the machine away."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import pytorch_lightning as pl
import torch

from saicinpainting.training.checkpoints import BestModelCheckpoint
from saicinpainting.training.epoch_loop import StepEndCallback

LOGGER = logging.getLogger(__name__)

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: start the same command again
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")  # USR1: SLURM's `--signal=USR1@90`; INT: Ctrl-C


class Stopped(SystemExit):
    """The run has saved itself and ends; process 0 with `EXIT_STATUS`.

    The others end with 0, or Lightning, which watches the processes that it has started, would kill process 0.
    """


class StopOnSignal(StepEndCallback):
    """After SIGTERM, SIGUSR1 or Ctrl-C: ends the step under way, writes `last.ckpt` and raises `Stopped`.

    The signal may reach one process or all. Processes vote after every step and read the vote a step later, so that
    none waits for it and all stop at the same step. One process alone stops within a validation, too, which it
    repeats when it goes on; several end it first.
    """

    def __init__(self, checkpoints: BestModelCheckpoint) -> None:
        self._checkpoints = checkpoints
        self._received: str | None = None
        self._group: Any = None
        self._vote: tuple[Any, torch.Tensor] | None = None

    # Lightning sets handlers of its own before; they save in the middle of a step and wait for other processes in it.
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, trainer: pl.Trainer) -> None:
        if self._agreed():
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._received and self._group is None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read_vote()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may; Lightning puts the old handlers back at the end
        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self._received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second Ctrl-C does not wait

    def _agreed(self) -> bool:
        if self._group is None:
            return self._received is not None
        if self._read_vote():
            return True
        vote = torch.tensor([int(self._received is not None)])
        work = torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._vote = (work, vote)
        return False

    def _read_vote(self) -> bool:
        """Whether any process had received a signal a step ago; waits for the slowest to end that step."""
        if self._vote is None:
            return False
        work, vote = self._vote
        self._vote = None
        work.wait()
        return bool(vote.item())

    def _stop(self, trainer: pl.Trainer) -> None:
        path = self._checkpoints.write_last(trainer)
        if trainer.is_global_zero:
            LOGGER.warning(
                "stopped by %s after %d steps; %s is written, and the same command with hydra.run.dir=%s "
                "trainer.resume_from_checkpoint=auto goes on from there",
                self._received or "a signal to another process",
                trainer.global_step,
                path,
                path.parent.parent,
            )
        raise Stopped(EXIT_STATUS if trainer.is_global_zero else 0)
