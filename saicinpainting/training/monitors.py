"""Watching a run: its speed, memory and learning rates in TensorBoard, and a profiler for a few of its steps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.profilers import Profiler, SimpleProfiler
from torch.profiler import profile as torch_profile
from torch.profiler import schedule

from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)


def watch(profile: str | None, window: Sequence[int], out_dir: Path) -> tuple[Profiler | None, list[pl.Callback]]:
    """The `profiler` and `callbacks` of a Lightning trainer.

    Args:
        profile: None, `simple` (Lightning's table of how long each of its actions took) or `torch` (a trace of some
            steps); both write to `out_dir/profile`.
        window: the first of these steps and the one after the last.
        out_dir: the run's folder.
    """
    if len(window) != 2 or not 1 <= window[0] < window[1]:
        raise InputError(
            f"trainer.profile_steps: expected [first, end] with 1 <= first < end, steps of this start, got {window}; "
            "for example trainer.profile_steps=[10,15]"
        )
    folder = out_dir / "profile"
    callbacks: list[pl.Callback] = [SpeedMonitor()]
    if profile == "torch":
        callbacks.append(StepTrace(folder=folder, first=window[0], end=window[1]))
    return SimpleProfiler(dirpath=folder, filename="simple") if profile == "simple" else None, callbacks


class ProgressBar(TQDMProgressBar):
    """Lightning's, with the L1 loss of the latest step, which is read only when the bar is drawn anew."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        latest = getattr(pl_module, "latest_logs", {}).get("gen_l1")
        shown = {} if latest is None else {"l1": float(latest)}
        return {**super().get_metrics(trainer, pl_module), **shown}


# ---- speed, memory, learning rates ----------------------------------------------------------------------------------


class SpeedMonitor(pl.Callback):
    """Logs every `log_every_n_steps` steps, as means since the last time:

    - `speed_step_seconds`: wall time of a step, waiting for its batch included;
    - `speed_data_wait_share`: the share of it between the end of a step and the next one, in [0, 1]: waiting for the
      batch, and a checkpoint that is written there;
    - `speed_images_per_second`: over all ranks, which train on batches of one size;
    - `memory_process_mb`: resident memory of this process, its loader's workers apart (Linux);
    - `memory_gpu_peak_mb`, `memory_gpu_reserved_mb`: tensors at their most since the start; what torch holds now;
    - `lr_generator`, `lr_discriminator`.

    The clock is paused during validation and between epochs. Kernels run on after the host has queued them, so the
    device is waited for, but only when something is logged or the clock is paused.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}  # what was logged last
        self._reset()

    def _reset(self) -> None:
        self._waiting, self._working, self._steps, self._images = 0.0, 0.0, 0, 0
        self._lap()

    def _lap(self, device: torch.device | None = None) -> float:
        """Seconds since the last call, after all work of `device` is done."""
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        before, self._since = getattr(self, "_since", 0.0), time.perf_counter()
        return self._since - before

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset()  # the sanity check does not count

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._working += self._lap(pl_module.device)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._working += self._lap(pl_module.device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap()

    def on_train_batch_start(self, *_: Any) -> None:
        self._waiting += self._lap()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        self._images += len(batch["image"])
        # The step under which Lightning logs this batch's losses: the number of batches before it.
        step = trainer.fit_loop.total_batch_idx
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = bool(interval) and (step + 1) % interval == 0
        self._working += self._lap(pl_module.device if is_logged else None)
        if is_logged:
            seconds = self._waiting + self._working
            speed = self.latest = {
                "speed_step_seconds": seconds / self._steps,
                "speed_data_wait_share": self._waiting / seconds,
                "speed_images_per_second": self._images * trainer.world_size / seconds,
            }
            for logger in trainer.loggers:
                scalars = {**speed, **memory(pl_module.device), **learning_rates(trainer.optimizers)}
                logger.log_metrics(scalars, step=step)
            self._reset()


def memory(device: torch.device) -> dict[str, float]:
    """Megabytes (10^6 bytes) in use by this process and, on a CUDA `device`, of its memory."""
    megabytes = {}
    statm = Path("/proc/self/statm")
    if statm.is_file():
        resident_pages = int(statm.read_text().split()[1])
        megabytes["memory_process_mb"] = resident_pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    if device.type == "cuda":
        megabytes["memory_gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
        megabytes["memory_gpu_reserved_mb"] = torch.cuda.memory_reserved(device) / 1e6
    return megabytes


def learning_rates(optimizers: list[torch.optim.Optimizer]) -> dict[str, float]:
    """The learning rates, of optimizers in the order in which the module makes them."""
    names = ("lr_generator", "lr_discriminator")
    return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in zip(names, optimizers, strict=True)}


# ---- profiler -------------------------------------------------------------------------------------------------------


class StepTrace(pl.Callback):
    """Profiles the steps [`first`, `end`), counted from 0 at this start of the run, on rank 0; training goes on.

    Writes `trace.json.gz`, for https://ui.perfetto.dev or chrome://tracing, and `operators.txt`, the costliest
    operators, to `folder`.
    """

    def __init__(self, *, folder: Path, first: int, end: int) -> None:
        self.folder, self.first, self.end = folder, first, end
        self._profiler: torch_profile | None = None
        self._steps = 0  # finished since the start

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._steps = 0
            self._order = f"self_{'device' if pl_module.device.type == 'cuda' else 'cpu'}_time_total"
            self._profiler = torch_profile(
                # The step before the window is traced and thrown away: starting the tracer takes time of its own.
                schedule=schedule(wait=self.first - 1, warmup=1, active=self.end - self.first, repeat=1),
                on_trace_ready=self._write,
            )
            self._profiler.start()

    def on_train_batch_end(self, *_: Any) -> None:
        self._steps += 1
        if self._profiler is not None:
            self._profiler.step()  # writes at the window's end
        if self._steps == self.end:
            self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        """At the window's end, or before it at the run's: what was recorded is written."""
        if self._profiler is None:
            return
        self._profiler.stop()
        self._profiler = None
        if self._steps < self.end:
            found = "only these were profiled" if self._steps > self.first else "nothing was profiled"
            message = "trainer.profile_steps=[%d, %d]: the run ended after %d steps, %s"
            LOGGER.warning(message, self.first, self.end, self._steps, found)

    def _write(self, profiler: torch_profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
        table = profiler.key_averages().table(sort_by=self._order, row_limit=40, max_name_column_width=80)
        write_whole(self.folder / "operators.txt", table)
        LOGGER.info("profiled %d steps: %s", self.end - self.first, self.folder)
