"""Checkpoints of a run: written whole, when, `best.ckpt`, what they are judged by."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from saicinpainting.config import translate_checkpoint_kwargs
from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.io.files import link_or_copy, whole
from saicinpainting.metrics import HIGHER_IS_BETTER, reported_scores
from saicinpainting.schema import read_section
from saicinpainting.training.epoch_loop import StepEndCallback
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
MONITOR = "trainer.checkpoint_kwargs.monitor"


class TensorsOnlyCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all and read without executing what they carry."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            write_checkpoint(checkpoint, path)
        except InputError as error:
            newest = max(Path(path).parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, default=None)
            hint = f"; the run can go on from {newest}" if newest else ""
            raise InputError(f"{error}{hint}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        # Tensors and plain values only, whatever `weights_only` says (Lightning before 2.6 does not ask). On the CPU,
        # from where they are copied into what is on the devices.
        return read_checkpoint(path)


class BestModelCheckpoint(ModelCheckpoint, StepEndCallback):
    """Keeps `best.ckpt`, where prediction looks for it, equal to the best checkpoint of this run so far.

    `last.ckpt` is written before every validation, so that a run that ends in a long one loses nothing, after it, so
    that no run repeats one that is done, and every `last_every_n_train_steps` steps if that is given.
    """

    def __init__(
        self, *, last_every_n_train_steps: int | None = None, scores: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._scores = scores  # that the evaluator reports, if that is known
        self._last_every = last_every_n_train_steps
        self._last_written_at: int | None = None  # the step

    def write_last(self, trainer: pl.Trainer) -> Path:
        """Make `last.ckpt` the state of this moment, unless it is so already; all processes call it together."""
        path = Path(str(self.dirpath)) / "last.ckpt"
        if self._last_written_at != trainer.global_step:
            for logger in trainer.loggers:
                # A run that is killed later has told TensorBoard everything up to here.
                getattr(logger.experiment, "flush", lambda: None)()  # type: ignore[attr-defined]
            # Not Lightning's way of saving the last one, which would take this step's best for saved already.
            trainer.save_checkpoint(path, weights_only=False)  # said, or Lightning remarks that it was not
            self._last_written_at = trainer.global_step
        return path

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best ones of a run whose folder was moved, too: Lightning would take the next one for the best."""
        folder, known = Path(str(self.dirpath)), state_dict.get("best_k_models") or {}
        here = {str(folder / Path(path).name): score for path, score in known.items()}
        here = {path: score for path, score in here.items() if os.path.isfile(path)}
        newest = folder / Path(state_dict.get("best_model_path") or "").name  # if nothing is monitored
        if state_dict.get("dirpath") != self.dirpath and not known and newest.is_file():
            state_dict = {**state_dict, "dirpath": self.dirpath, "best_model_path": str(newest)}
        elif state_dict.get("dirpath") != self.dirpath and here:
            ranked = sorted(here, key=lambda path: float(here[path]), reverse=self.mode == "min")
            worst, best = ranked[0], ranked[-1]
            state_dict = {
                **state_dict,
                **{"dirpath": self.dirpath, "best_k_models": here, "last_model_path": str(folder / "last.ckpt")},
                **{"best_model_path": best, "best_model_score": here[best]},
                **{"kth_best_model_path": worst, "kth_value": here[worst]},
            }
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        last, resumed_from = Path(str(self.dirpath)) / "last.ckpt", trainer.ckpt_path
        if resumed_from and last.is_file() and last.samefile(resumed_from):
            self._last_written_at = trainer.global_step  # a run that has nothing left to do leaves it as it is

    def on_step_end(self, trainer: pl.Trainer) -> None:
        if self._last_every and trainer.global_step % self._last_every == 0:
            self.write_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # `max_steps` may end a run between two checkpoints.
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self.write_last(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.save_last and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.write_last(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find a wrong name now, as there may be no sanity check. Names of other forms than these are let pass."""
        if self._scores is None:
            return
        totals = [f"{score}_total_mean" for score in self._scores]
        for key, monitor in self._monitors(trainer):
            if monitor.endswith("_total_mean") and not monitor.endswith(tuple(f"_{total}" for total in totals)):
                _refuse(key, monitor, [f"val_{total}" for total in totals])

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find a wrong name now, not after the first epoch."""
        measured: set[str] = getattr(pl_module, "measured", set())
        if not measured:
            return  # data.val=null
        few = 1 in trainer.num_sanity_val_batches  # it may be one image, which has no FID
        for key, monitor in self._monitors(trainer):
            logged = monitor in measured or (few and re.search(r"fid|kid|_ids", monitor))
            if key != MONITOR:  # checkpoints are judged by these alone, other callbacks may wait for other values
                expected = of_validation(monitor) and "%" not in monitor  # bins may be empty
                logged = logged or monitor in trainer.callback_metrics or not expected
            if not logged:
                _refuse(key, monitor, [name for name in measured if "%" not in name])

    def _monitors(self, trainer: pl.Trainer) -> Iterator[tuple[str, str]]:
        """Config key and name of each value that a callback waits for."""
        if self.monitor is not None:
            yield MONITOR, self.monitor
        callbacks: list[Any] = [one for one in trainer.callbacks if one is not self]  # type: ignore[attr-defined]
        # What somebody else's callback or metric logs nobody here knows.
        known = all(type(one).__module__.startswith(("pytorch_lightning.", "saicinpainting.")) for one in callbacks)
        if known and self._scores is not None:
            for one in callbacks:
                if isinstance(monitor := getattr(one, "monitor", None), str) and getattr(one, "strict", True):
                    yield f"callbacks: {type(one).__name__}.monitor", monitor

    # Lightning saves in one hook or the other, as validation falls.
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved_before = self._last_global_step_saved
        # Without a value of this validation Lightning would judge by an older one, or end a resumed run for lack of it.
        if not is_left_out(self.monitor, pl_module):
            super().on_validation_end(trainer, pl_module)
            self._update_best(trainer)
        if self.save_last and trainer.state.fn == "fit" and not trainer.sanity_checking:
            # Lightning writes the last one only with one of the best. The one from before says that this is to come.
            self._last_written_at = trainer.global_step if self._last_global_step_saved != saved_before else None
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._update_best(trainer)

    def _update_best(self, trainer: pl.Trainer) -> None:
        best = Path(self.best_model_path)
        # A resumed run starts with the best of the folder it comes from, which is not to be touched.
        if trainer.is_global_zero and best.is_file() and str(best.parent) == str(self.dirpath):
            replace_by_link(best, best.with_name("best.ckpt"))


def of_validation(name: str) -> bool:
    """Whether a validation logs this value."""
    return re.match("_?(val|test|extra_val)_", name) is not None


def is_left_out(monitor: str | None, pl_module: pl.LightningModule) -> bool:
    """Whether `monitor` is one of those that the last validation left out, see `InpaintingModule.left_out`."""
    left_out = getattr(pl_module, "left_out", None)
    return monitor is not None and left_out is not None and of_validation(monitor) and left_out(monitor)


def _refuse(key: str, monitor: str, known: Iterable[str]) -> NoReturn:
    raise InputError(f"{key}={monitor} is not computed by this config; {did_you_mean(monitor, known)}")


def replace_by_link(source: Path, target: Path) -> None:
    if target.exists() and os.path.samefile(source, target):
        return  # renaming one link onto another of the same file does nothing, and would leave the first behind
    with whole(target) as part:
        part.unlink(missing_ok=True)  # of a start that was killed
        link_or_copy(source, part)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Config section `trainer.checkpoint_kwargs`: which checkpoints a run keeps.

    Args:
        monitor: the value of the validation that they are judged by, as TensorBoard names it; null for none.
        mode: which is better, `max` or `min`.
        save_top_k: how many of the best to keep, -1 for all.
        save_last: keep `last.ckpt`, which a run resumes from.
        verbose: log each checkpoint that is written.
        every_n_epochs: epochs from one checkpoint to the next; null: one after each validation.
        every_n_train_steps: steps from one `last.ckpt` to the next, besides; null for none. Without `monitor` and
            `every_n_epochs` steps from one numbered checkpoint to the next.
        save_weights_only: leave out what a resume needs.
        filename: how checkpoints are called, as Lightning's `ModelCheckpoint` has it.
        auto_insert_metric_name: write names before the values in `filename`.
    """

    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    save_top_k: int = 5
    save_last: bool = True
    verbose: bool = False
    every_n_epochs: int | None = None
    every_n_train_steps: int | None = None
    save_weights_only: bool = False
    filename: str | None = None
    auto_insert_metric_name: bool = True

    def __post_init__(self) -> None:
        where, every = "trainer.checkpoint_kwargs", self.every_n_train_steps
        if every is not None and every < 1:
            raise InputError(f"{where}.every_n_train_steps: expected 1 or more, or null, got {every}")
        if every and not self.save_last:
            raise InputError(f"{where}.save_last=false leaves no last.ckpt; set every_n_train_steps to null as well")
        if self.monitor is None and self.save_top_k not in (-1, 0, 1):
            raise InputError(
                f"{where}.monitor=null judges none the best, but save_top_k={self.save_top_k} asks for the best ones; "
                "set save_top_k to -1 (keep all), 1 (the newest) or 0 (last.ckpt alone)"
            )
        if self.save_weights_only and self.save_last:
            raise InputError(
                f"{where}.save_weights_only=true: no run could go on from such a last.ckpt; set it to false "
                "(bin/make_checkpoint.py makes small files), or save_last to false"
            )


def make_checkpoint_callback(settings: Mapping[str, Any], folder: Path) -> BestModelCheckpoint:
    """The callback of `trainer.checkpoint_kwargs`, in Lightning 1's or 2's terms, writing to `folder`."""
    kwargs = translate_checkpoint_kwargs(settings["trainer"].get("checkpoint_kwargs") or {})
    kept = read_section(CheckpointSettings, kwargs, where="trainer.checkpoint_kwargs")
    evaluator = settings.get("evaluator") or {}
    monitor, mode = _measured_monitor(kept.monitor, kept.mode, evaluator)
    # A step between two validations has no metric of its own to be judged by.
    numbered = monitor is None and kept.every_n_epochs is None
    every = kept.every_n_train_steps
    own = {"dirpath": folder, "monitor": monitor, "mode": mode, "enable_version_counter": False}
    return BestModelCheckpoint(
        **{**vars(kept), **own, "every_n_train_steps": every if numbered else None},
        last_every_n_train_steps=None if numbered else every,
        scores=None if evaluator.keys() & {"_target_", "extra"} else _scores(evaluator),
        # Of a run that max_steps ends within an epoch Lightning would judge the last step by an older validation.
        save_on_train_epoch_end=False if monitor is not None else None,
    )


def _scores(evaluator: Mapping[str, Any]) -> list[str]:
    return reported_scores(evaluator) if evaluator else []


def _measured_monitor(monitor: str | None, mode: str, evaluator: Mapping[str, Any]) -> tuple[str | None, str]:
    """`monitor` and `mode`, or others with a warning where the evaluator has this metric switched off.

    Raises:
        InputError: a direction that would keep the worst.
    """
    score = re.fullmatch(r"(?:val|test|extra_val_\w+?)_(\w+)_total_mean", monitor or "")
    if score is None or score[1] not in HIGHER_IS_BETTER or "_target_" in evaluator:
        return monitor, mode
    measured = _scores(evaluator)
    if score[1] not in measured:
        instead, mode = ("val_ssim_total_mean", "max") if "ssim" in measured else ("val_gen_l1", "min")
        message = "trainer.checkpoint_kwargs.monitor: the evaluator does not measure %s; judged by %s (%s) instead"
        LOGGER.warning(message, monitor, instead, mode)
        return instead, mode
    better = "max" if HIGHER_IS_BETTER[score[1]] else "min"
    if mode != better:
        key = "trainer.checkpoint_kwargs.mode"
        raise InputError(f"{key}={mode} would keep the worst checkpoints by {monitor}; set {key}={better}")
    return monitor, mode
