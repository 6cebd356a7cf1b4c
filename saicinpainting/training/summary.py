"""The arithmetic of a run, before it starts: batches, steps, validations, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from saicinpainting.data.datamodule import InpaintingDataModule

# Batch norm takes its statistics on each GPU; with fewer images a step than this the published quality is not reached.
SMALLEST_TOTAL_BATCH = 20


@dataclass(frozen=True)
class RunSummary:
    """`text`: a block of lines for the log; `warnings`: a line each, with what to do."""

    text: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The numbers that decide how a run goes.

    Args:
        images: training images.
        batch_size: of one process.
        processes: how many train together.
        device: what each of them has to itself, for the text.
        epoch_images: training images of an epoch, over all processes; None: all.
        batches: of one process in an epoch.
        limit_train_batches: steps in an epoch at most, or the share of `batches` (a float); None for all.
        max_epochs, max_steps: what ends the run, whichever comes first; -1 or None for no limit.
        val_images: images of each validation set, by its name.
        val_check_interval: steps from one validation to the next, or the share of an epoch (a float).
        check_val_every_n_epoch: epochs in which there is validation; None: the interval counts steps over epochs.
        save_top_k: best checkpoints to keep, -1 for all.
        save_last: keep `last.ckpt`.
        monitored: checkpoints are judged by a value of the validation, and written after it.
        every_n_train_steps: steps from one `last.ckpt` to the next, besides; without `monitored` and `every_n_epochs`
            from one numbered checkpoint to the next. None or 0: none.
        every_n_epochs: epochs from one checkpoint to the next; None: one after each validation.
        average_start_step: steps before the generator's weights are averaged; None for no averaging.
        sync_batchnorm: batch norm is joined over processes.
        emulated_precision: the precision, if the processor has no instructions for it.
    """

    images: int
    batch_size: int
    batches: int
    epoch_images: int | None = None
    processes: int = 1
    device: str = "GPU"
    limit_train_batches: int | float | None = None
    max_epochs: int | None = None
    max_steps: int | None = None
    val_images: Mapping[str, int]
    val_check_interval: int | float = 1.0
    check_val_every_n_epoch: int | None = 1
    save_top_k: int = 5
    save_last: bool = True
    monitored: bool = True
    every_n_train_steps: int | None = None
    every_n_epochs: int | None = 1
    average_start_step: int | None = None
    sync_batchnorm: bool = False
    emulated_precision: str | None = None

    @property
    def total_batch(self) -> int:
        return self.batch_size * self.processes

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch, as Lightning counts them."""
        limit = self.limit_train_batches
        if limit is None:
            return self.batches
        return min(self.batches, limit) if isinstance(limit, int) else int(self.batches * limit)

    @property
    def steps(self) -> int | None:
        """Steps of the whole run; None if it has no end."""
        ends = []
        if self.max_epochs is not None and self.max_epochs >= 0:
            ends.append(self.max_epochs * self.epoch_steps)
        if self.max_steps is not None and self.max_steps >= 0:
            ends.append(self.max_steps)
        return min(ends, default=None)

    @property
    def val_every(self) -> int:
        """Steps from one validation to the next, in an epoch that has any."""
        interval = self.val_check_interval
        if isinstance(interval, float):
            interval = max(1, int(self.epoch_steps * interval))
        # Without counting by epochs the interval may be longer than one; otherwise that means its end.
        return interval if self.check_val_every_n_epoch is None else min(interval, self.epoch_steps)

    @property
    def first_validation(self) -> int:
        """Steps before it."""
        return ((self.check_val_every_n_epoch or 1) - 1) * self.epoch_steps + self.val_every

    @property
    def validations(self) -> int | None:
        """How many there are in the whole run; None if it has no end."""
        if self.steps is None or not self.epoch_steps:
            return None
        every = self.check_val_every_n_epoch
        if every is None:
            return self.steps // self.val_every
        epochs, rest = divmod(self.steps, self.epoch_steps)
        in_rest = rest // self.val_every if (epochs + 1) % every == 0 else 0
        return epochs // every * (self.epoch_steps // self.val_every) + in_rest


def plan_of(settings: Mapping[str, Any], data: InpaintingDataModule, trainer: pl.Trainer) -> RunPlan:
    """The plan of a run from its whole config, resolved, and what has been built of it."""
    section = settings["trainer"]
    checkpoints = section.get("checkpoint_kwargs") or {}
    averaging = settings["training_model"]
    return RunPlan(
        images=data.train_images(),
        epoch_images=data.epoch_images(),
        batch_size=int((settings["data"]["train"].get("dataloader_kwargs") or {}).get("batch_size", 1)),
        batches=data.train_batches(trainer.world_size),
        processes=trainer.world_size,
        device="process" if isinstance(trainer.accelerator, CPUAccelerator) else "GPU",
        limit_train_batches=trainer.limit_train_batches,
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        val_images={
            title: len(loader.dataset)  # type: ignore[arg-type]
            for title, loader in zip(data.val_titles, data.val_dataloader(), strict=True)
        },
        val_check_interval=trainer.val_check_interval,
        check_val_every_n_epoch=trainer.check_val_every_n_epoch,
        save_top_k=checkpoints.get("save_top_k", 5),
        save_last=bool(checkpoints.get("save_last", True)),
        monitored=checkpoints.get("monitor") is not None,
        every_n_train_steps=checkpoints.get("every_n_train_steps"),
        every_n_epochs=checkpoints.get("every_n_epochs"),
        average_start_step=averaging.get("average_generator_start_step", 30000)
        if averaging.get("average_generator")
        else None,
        sync_batchnorm=bool((section.get("kwargs") or {}).get("sync_batchnorm")),
        emulated_precision=_emulated_precision(trainer),
    )


def _emulated_precision(trainer: pl.Trainer) -> str | None:
    """The precision if the device has no instructions for it."""
    if not str(trainer.precision).startswith("bf16"):
        return None
    if isinstance(trainer.accelerator, CPUAccelerator):
        supported = not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    elif isinstance(trainer.accelerator, CUDAAccelerator):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = True
    return None if supported else str(trainer.precision)


def describe_run(plan: RunPlan) -> RunSummary:
    """What will happen, in a block of lines, and what looks like a mistake."""
    lines = [_batch_line(plan), _epoch_line(plan), _validation_line(plan), _checkpoint_line(plan)]
    return RunSummary("\n".join(f"  {line}" for line in lines), tuple(_warnings(plan)))


def _batch_line(plan: RunPlan) -> str:
    if plan.processes == 1:
        return f"batch: {_count(plan.batch_size, 'image')} a step"
    devices = _count(plan.processes, plan.device, plan.device + ("es" if plan.device.endswith("s") else "s"))
    each = f"{_count(plan.batch_size, 'image')} a {plan.device}"
    return f"batch: {each} x {devices} = {_count(plan.total_batch, 'image')} a step"


def _epoch_line(plan: RunPlan) -> str:
    steps = plan.epoch_steps
    whole = f"all of {_count(plan.images, 'image')}"
    if plan.epoch_images not in (None, plan.images):
        whole = f"epoch_images: {plan.epoch_images:,} of {_count(plan.images, 'image')}"
    if steps < plan.batches:
        whole = f"limit_train_batches; {whole} would be {plan.batches:,}"
    text = f"epoch: {_count(steps, 'step')} ({whole})"
    total = plan.steps
    if total is None:
        return f"{text}; no end is set (max_epochs, max_steps)"
    passes = total * plan.total_batch / plan.images
    epochs = total / steps if steps else 0
    counted = _count(int(epochs), "epoch") if epochs == int(epochs) else f"{epochs:,.1f} epochs"
    return f"{text}; {counted}, {_count(total, 'step')}, every image {passes:,.1f} times"


def _validation_line(plan: RunPlan) -> str:
    sets = ", ".join(f"{name} {_count(images, 'image')}" for name, images in plan.val_images.items())
    skipped = plan.check_val_every_n_epoch or 1
    epochs = f" of one epoch in {skipped}" if skipped > 1 else ""
    count = plan.validations
    times = "" if count is None else f", {_count(count, 'time')}"
    return f"validation: {sets}; every {_count(plan.val_every, 'step')}{epochs}{times}"


def _checkpoint_line(plan: RunPlan) -> str:
    by_step, written = plan.every_n_train_steps or 0, plan.validations
    numbered = not plan.monitored and plan.every_n_epochs is None
    skipped = plan.every_n_epochs or 1
    every = "after each validation" + (f" of one epoch in {skipped}" if skipped > 1 else "")
    if skipped > 1:
        written = None  # depends on how the validations fall
    if by_step and numbered:
        every = f"every {_count(by_step, 'step')}"
        written = None if plan.steps is None else plan.steps // by_step
    elif by_step and plan.save_last:
        every += f", last.ckpt also every {_count(by_step, 'step')}"
    top = {-1: "all of them", 0: ""}.get(plan.save_top_k, f"the best {plan.save_top_k}")
    if written is not None and plan.save_top_k > 0:
        top = f"{top} of {written:,}" if plan.save_top_k < written else f"all {written:,}"
    kept = [*(["last.ckpt"] if plan.save_last else []), *(["best.ckpt", top] if top else [])]
    return f"checkpoints: {every}; kept: {', '.join(kept) or 'none'}"


def _warnings(plan: RunPlan) -> list[str]:
    found = []
    if plan.epoch_steps < 1:
        found.append(
            f"an epoch has no step: {_count(plan.images, 'image')} make {_count(plan.batches, 'batch', 'batches')} of "
            f"{plan.batch_size} on {_count(plan.processes, 'process', 'processes')}; lower data.batch_size"
        )
        return found
    if plan.total_batch < SMALLEST_TOTAL_BATCH:
        found.append(
            f"{_count(plan.total_batch, 'image')} a step: quality degrades below {SMALLEST_TOTAL_BATCH}, as batch norm "
            "sees few images; raise data.batch_size or use more GPUs "
            + ("" if plan.sync_batchnorm else "(with +trainer.kwargs.sync_batchnorm=true) ")
            + "(published models: 30 and 120)"
        )
    if plan.emulated_precision is not None:
        found.append(
            f"precision {plan.emulated_precision}: this {'GPU' if plan.device == 'GPU' else 'processor'} has no "
            "bfloat16 instructions, and a step takes longer than in float32; set trainer.kwargs.precision="
            + ("16-mixed, for which it has" if plan.device == "GPU" else "32")
        )
    steps = plan.steps
    if plan.validations == 0:
        found.append(
            f"the run ends after {_count(steps or 0, 'step')}, before its first validation after "
            f"{plan.first_validation:,}: there will be no best.ckpt; lower trainer.kwargs.val_check_interval"
        )
    if plan.average_start_step is not None and steps is not None and plan.average_start_step >= steps:
        found.append(
            f"the generator's weights are averaged from step {plan.average_start_step:,} on, but the run ends after "
            f"{steps:,}; lower training_model.average_generator_start_step"
        )
    return found


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
