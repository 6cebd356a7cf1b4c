"""Checkpoints of a run: written whole, when, `best.ckpt`, what they are judged by."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from saicinpainting.config import translate_checkpoint_kwargs
from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.io.files import link_or_copy, whole
from saicinpainting.metrics import HIGHER_IS_BETTER, SWITCHES, reported_scores
from saicinpainting.training.epoch_loop import StepEndCallback
from saicinpainting.utils import InputError, call_with_settings, did_you_mean

LOGGER = logging.getLogger(__name__)


class TensorsOnlyCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written whole or not at all and read without executing what they carry."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            write_checkpoint(checkpoint, path)
        except InputError as error:
            whole = max(Path(path).parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, default=None)
            hint = f"; the run can go on from {whole}" if whole else ""
            raise InputError(f"{error}{hint}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        # Tensors and plain values only, whatever `weights_only` says (Lightning before 2.6 does not ask).
        return read_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class BestModelCheckpoint(ModelCheckpoint, StepEndCallback):
    """Keeps `best.ckpt`, where prediction looks for it, equal to the best checkpoint of this run so far.

    `last.ckpt` is written before every validation, so that a run that ends in a long one loses nothing, after it, so
    that no run repeats one that is done, and every `last_every_n_train_steps` steps if that is given.
    """

    def __init__(self, *, last_every_n_train_steps: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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
            trainer.save_checkpoint(path)
            self._last_written_at = trainer.global_step
        return path

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

    # Lightning saves in one hook or the other, as validation falls.
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved_before = self._last_global_step_saved
        # Without a value of this validation (`evaluator.costly_every`) Lightning would judge by an older one.
        if not self.monitor or not _is_measured(self.monitor) or self.monitor in getattr(pl_module, "measured", ()):
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


def replace_by_link(source: Path, target: Path) -> None:
    if target.exists() and os.path.samefile(source, target):
        return  # renaming one link onto another of the same file does nothing, and would leave the first behind
    with whole(target) as part:
        part.unlink(missing_ok=True)  # of a start that was killed
        link_or_copy(source, part)


def make_checkpoint_callback(settings: Mapping[str, Any], folder: Path) -> BestModelCheckpoint:
    """The callback of `trainer.checkpoint_kwargs`, in Lightning 1's or 2's terms, writing to `folder`."""
    kwargs = translate_checkpoint_kwargs(settings["trainer"].get("checkpoint_kwargs") or {})

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
    ) -> BestModelCheckpoint:
        monitor, mode = _usable_monitor(monitor, mode, settings)
        if every_n_train_steps and not save_last:
            raise InputError(
                "trainer.checkpoint_kwargs.every_n_train_steps writes last.ckpt, which "
                "trainer.checkpoint_kwargs.save_last=false forbids; set every_n_train_steps to null as well"
            )
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise InputError(
                f"trainer.checkpoint_kwargs.every_n_train_steps: expected 1 or more, or null, got {every_n_train_steps}"
            )
        if save_weights_only and save_last:
            raise InputError(
                "trainer.checkpoint_kwargs.save_weights_only=true: no run could go on from such a last.ckpt; set it to "
                "false (bin/make_checkpoint.py makes small files), or save_last to false"
            )
        # A step between two validations has no metric of its own to be judged by.
        numbered = monitor is None and every_n_epochs is None
        return BestModelCheckpoint(
            dirpath=folder,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=save_last,
            verbose=verbose,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps if numbered else None,
            last_every_n_train_steps=None if numbered else every_n_train_steps,
            save_weights_only=save_weights_only,
            # Of a run that max_steps ends within an epoch Lightning would judge the last step by an older validation.
            save_on_train_epoch_end=False if monitor is not None else None,
            filename=filename,
            auto_insert_metric_name=auto_insert_metric_name,
            enable_version_counter=False,
        )

    return call_with_settings(make, kwargs, where="trainer.checkpoint_kwargs")


def _usable_monitor(monitor: str | None, mode: str, settings: Mapping[str, Any]) -> tuple[str | None, str]:
    """What checkpoints are judged by; found out now, not after the first epoch.

    A metric that is switched off is replaced by what is computed, with a warning; a name that is no metric, and a
    direction that would keep the worst, are errors.
    """
    if monitor is None:
        return None, mode
    modes = _logged_by_validation(settings)
    if monitor not in modes:
        usual = "val_ssim_total_mean" if "val_ssim_total_mean" in modes else "val_gen_l1"
        if not _is_measured(monitor) or not monitor.startswith("val_"):
            raise InputError(
                f"trainer.checkpoint_kwargs.monitor={monitor} is not computed by this config; "
                f"{did_you_mean(monitor, modes)}; for example trainer.checkpoint_kwargs.monitor={usual} "
                f"trainer.checkpoint_kwargs.mode={modes[usual]}"
            )
        LOGGER.warning(
            "trainer.checkpoint_kwargs.monitor: %s is not measured, since the evaluator has it or a part of it "
            "switched off; checkpoints are judged by %s (%s) instead",
            monitor,
            usual,
            modes[usual],
        )
        return usual, modes[usual]
    if mode != modes[monitor]:
        raise InputError(
            f"trainer.checkpoint_kwargs.mode={mode} would keep the worst checkpoints by {monitor}; "
            f"set trainer.checkpoint_kwargs.mode={modes[monitor]}"
        )
    return monitor, mode


def _is_measured(monitor: str) -> bool:
    """Whether this is the mean of a score of the evaluators, as `val_ssim_total_mean` is."""
    return any(monitor.endswith(f"_{score}_total_mean") for score in HIGHER_IS_BETTER)


def _logged_by_validation(settings: Mapping[str, Any]) -> dict[str, str]:
    """Names that validation logs and whose mean can be monitored, with the better direction of each."""
    data, losses, evaluator = (settings.get(name) or {} for name in ("data", "losses", "evaluator"))
    titles = ["val", *(["test"] if data.get("visual_test") else [])]
    titles += [f"extra_val_{name}" for name in data.get("extra_val") or {}]
    switches = {name: bool(evaluator[name]) for name in SWITCHES if name in evaluator}
    metrics = set(reported_scores(switches)) if evaluator else set()
    modes = {f"{name}_total_mean": "max" if HIGHER_IS_BETTER[name] else "min" for name in metrics}
    if "fid" in metrics and evaluator.get("integral_kind", "ssim_fid100_f1"):
        modes |= {f"{name}_fid100_f1_total_mean": "max" for name in metrics & {"ssim", "lpips"}}
    terms = {"gen_pl": "perceptual", "gen_fm": "feature_matching", "gen_resnet_pl": "resnet_pl"}
    used = [name for name, loss in terms.items() if (losses.get(loss) or {}).get("weight", 0) > 0]
    modes |= dict.fromkeys(["gen_l1", "gen_adv", *used], "min")
    return {f"{title}_{name}": mode for title in titles for name, mode in modes.items()}
