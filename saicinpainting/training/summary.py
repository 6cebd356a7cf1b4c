"""What a run says of itself at its start: a few facts, and what looks like a mistake."""

from __future__ import annotations

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from torch.nn.modules.batchnorm import _BatchNorm

from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.training.micro_batches import describe_batch
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.optimizers import NAMES
from saicinpainting.utils import count_parameters

# Batch norm takes its statistics on each GPU; with fewer images a step than this the published quality is not reached.
SMALLEST_TOTAL_BATCH = 20


def describe_run(
    model: InpaintingModule, data: InpaintingDataModule, trainer: pl.Trainer, total_batch_size: int | None = None
) -> str:
    """A few lines on the network, the data, the steps and the device."""
    processes, total = trainer.world_size, data.batch_size(trainer.world_size)
    epoch, steps = steps_of(data, trainer)
    sets = ", ".join(f"{name.removeprefix('data.')} {images:,}" for name, images in data.images().items())
    whole = "no end is set (max_epochs, max_steps)"
    if steps is not None:
        whole = f"{steps:,} in all, every image {steps * total / data.train_images():.1f} times"
    every = trainer.val_check_interval
    rhythm = f"{every:,} steps" if isinstance(every, int) else f"{every:g} epoch"
    if (epochs := trainer.check_val_every_n_epoch or 1) > 1:
        rhythm += f", in one of {epochs} epochs"
    device = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    batch = describe_batch(
        batch_size=data.micro_batch_size(),
        processes=processes,
        micro_batches=data.micro_batches,
        total=total_batch_size,
    )
    lines = (
        *_describe_networks(model),
        f"images: {sets}",
        f"batch: {batch}",
        f"steps: {epoch:,} an epoch, {whole}",
        f"validation: {f'every {rhythm}' if validates(data, trainer) else 'none'}",
        f"device: {device} x {processes}, precision {trainer.precision}, compile {model.options.compile}",
    )
    return "\n".join(f"  {line}" for line in lines)


def _describe_networks(model: InpaintingModule) -> Iterator[str]:
    """The size of the generator, and of what is trained where parts are frozen."""
    yield f"generator: {count_parameters(model.generator) / 1e6:.2f}M parameters"
    if model.options.frozen_parts:
        trained = {name: sum(p.numel() for p in model.trained_parameters(name)) for name in NAMES}
        yield "trained, as frozen_parts leaves it: " + ", ".join(f"{name} {n:,}" for name, n in trained.items())


def _norms_see_batches(model: InpaintingModule) -> bool:
    """Whether the generator takes statistics from the images of a step."""
    norms = (part for part in model.generator.modules() if isinstance(part, _BatchNorm))
    return not model.options.frozen_batch_norm and not all(getattr(norm, "frozen", False) for norm in norms)


def warnings_of(model: InpaintingModule, data: InpaintingDataModule, trainer: pl.Trainer) -> Iterator[str]:
    """What looks like a mistake, a line each, with what to do."""
    (epoch, steps), total = steps_of(data, trainer), data.batch_size(trainer.world_size)
    if total < SMALLEST_TOTAL_BATCH and _norms_see_batches(model):
        yield (
            f"{total} images a step: quality degrades below {SMALLEST_TOTAL_BATCH}, as batch norm sees few "
            "images; raise data.batch_size or use more GPUs with +trainer.kwargs.sync_batchnorm=true (published "
            "models: 30 and 120)"
        )
    if emulates_precision(trainer):
        other = "16-mixed" if isinstance(trainer.accelerator, CUDAAccelerator) else "32"
        yield (
            f"precision {trainer.precision}: this device has no bfloat16 instructions, and a step takes longer than in "
            f"float32; set trainer.kwargs.precision={other}"
        )
    for name, network in (("generator", model.generator), ("discriminator", model.discriminator)):
        if not network.training:
            yield f"{name}: built in eval mode, in which its norms do not learn; leave out the eval() of its builder"
    if not validates(data, trainer):
        why = "trainer.kwargs.limit_val_batches=0" if data.val_titles else "data.val=null"
        yield f"{why}: no validation, so there will be no best.ckpt; last.ckpt holds the newest weights"
    elif steps is not None and steps < (validated := first_validation(epoch, trainer)):
        yield (
            f"the run ends after {steps:,} steps, before its first validation after {validated:,}: there will be no "
            "best.ckpt; lower trainer.kwargs.val_check_interval"
        )
    average = model.generator_average
    if steps is not None and average is not None and average.start_step >= steps:
        yield (
            f"the generator's weights are averaged from step {average.start_step:,} on, but the run "
            f"ends after {steps:,}; lower training_model.average_generator_start_step"
        )


def steps_of(data: InpaintingDataModule, trainer: pl.Trainer) -> tuple[int, int | None]:
    """Steps of an epoch and of the whole run; None if it has no end."""
    epoch = limited(data.train_batches(trainer.world_size), trainer.limit_train_batches)
    ends = [trainer.max_steps, None if trainer.max_epochs is None else trainer.max_epochs * epoch]
    return epoch, min((end for end in ends if end is not None and end >= 0), default=None)


def limited(batches: int, limit: float | None) -> int:
    """The batches of an epoch that `limit_train_batches` leaves: at most so many, or a share of them."""
    return batches if limit is None else min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def validates(data: InpaintingDataModule, trainer: pl.Trainer) -> bool:
    """Whether there is a set to validate on, and any of it is looked at."""
    return bool(data.val_titles) and trainer.limit_val_batches != 0


def first_validation(epoch: int, trainer: pl.Trainer) -> int:
    """Steps before the first validation; `epoch`: steps of one."""
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    steps = max(1, int(epoch * interval)) if isinstance(interval, float) else interval
    return steps + ((every or 1) - 1) * epoch


def emulates_precision(trainer: pl.Trainer) -> bool:
    """Whether the device has no instructions for the precision, which is bfloat16."""
    if not str(trainer.precision).startswith("bf16"):
        return False
    if isinstance(trainer.accelerator, CPUAccelerator):
        return torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    launcher = trainer.strategy.launcher
    if not isinstance(trainer.accelerator, CUDAAccelerator) or (launcher and launcher.is_interactive_compatible):
        return False  # of which the latter will fork: processes of one that has used CUDA cannot use it
    with torch.cuda.device(trainer.strategy.root_device):
        return not torch.cuda.is_bf16_supported(including_emulation=False)
