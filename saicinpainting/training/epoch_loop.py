"""Lightning's loop over the batches of an epoch, with an entrance after every batch and a hook between two of them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop


class StepEndCallback(pl.Callback):
    """A callback that is called when a step is done and logged, before a validation that is due after it."""

    def on_step_end(self, trainer: pl.Trainer) -> None:
        """`on_train_batch_end` comes too early for a checkpoint: what the step logs is written after it."""


class ExactEpochLoop(_TrainingEpochLoop):
    """Goes on in an epoch as if it had never been left.

    Lightning's own way depends on its version and on the hook in which the checkpoint was written: it repeats a step,
    or leaves out or repeats a validation.
    """

    _entry: tuple[int, bool] | None = None

    def enter_at(self, batches: int, *, step_ends: bool) -> None:
        """Begin the next epoch after `batches`; `step_ends`: with the end of that step, validation if it is due."""
        self._entry = (batches, step_ends)

    def reset(self) -> None:
        self.restarting = False  # Lightning's way of going on
        super().reset()
        if self._entry is not None:
            batches = self._entry[0]
            current: Any = self.batch_progress.current
            current.ready = current.started = current.processed = current.completed = batches
            self.batch_progress.is_last_batch = batches >= self.trainer.num_training_batches

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning 2.6 would stop here in every step until the device has caught up; see `interrupts.py` instead."""

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        entry, self._entry = self._entry, None
        if entry is not None and entry[1]:
            super().on_advance_end(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StepEndCallback):
                callback.on_step_end(self.trainer)
        super().on_advance_end(data_fetcher)


def use_exact_epochs(trainer: pl.Trainer) -> None:
    """Give `trainer` an `ExactEpochLoop`."""
    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = ExactEpochLoop(trainer, min_steps=loop.min_steps, max_steps=loop.max_steps)
