"""Steps whose batch is larger than what fits on the cards: one after another, micro-batches stand for processes.

Process p of W with k micro-batches computes what processes p·k … p·k + k - 1 of W·k would: their images
(`data.sampler.MicroBatchSampler`), their random numbers, and the mean of their gradients, after which both networks
step once. Running statistics and logs are those of the first, as DDP's checkpoints and logs are those of process 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saicinpainting.networks.batch_norm import statistics_kept
from saicinpainting.training.parts import Batch
from saicinpainting.utils import InputError, check_whole

LOGGER = logging.getLogger(__name__)
KEY = "accumulate_grad_batches"


class MicroBatch(NamedTuple):
    """What one process would have as its batch, and its random numbers for this step."""

    batch: Batch
    rng: torch.Generator


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """`count` batches of equal size, in order, of one that holds a multiple of so many samples.

    batch: tensors (B, …) and lists with an entry for each sample; anything else goes to all of them.
    """
    if count == 1:
        return [batch]
    samples = len(batch["image"])
    if samples % count:
        raise InputError(f"{samples} images cannot be {count} micro-batches of one size ({KEY})")
    size = samples // count

    def part(value: Any, number: int) -> Any:
        each = (isinstance(value, list) and len(value) == samples) or (
            isinstance(value, Tensor) and value.shape[:1] == (samples,)
        )
        return value[number * size : (number + 1) * size] if each else value

    return [{key: part(value, number) for key, value in batch.items()} for number in range(count)]


def each_micro_batch(
    micro_batches: Sequence[MicroBatch], networks: Sequence[nn.Module], wrapper: nn.Module | None
) -> Iterator[MicroBatch]:
    """One after another; in between, forward and backward passes of the one before belong to it.

    Args:
        networks: whose running statistics follow the first micro-batch alone.
        wrapper: DDP around the network that trains, which waits for the last before it averages; None without DDP.
    """
    last = len(micro_batches) - 1
    with ExitStack() as kept:
        for number, micro_batch in enumerate(micro_batches):
            waiting: AbstractContextManager[Any] = nullcontext()
            if wrapper is not None and number < last:
                waiting = wrapper.no_sync()  # type: ignore[operator]
            with waiting:
                yield micro_batch
            if number == 0 and last:
                for network in networks:
                    kept.enter_context(statistics_kept(network))


def choose_micro_batches(
    trainer_kwargs: Mapping[str, Any], *, total: int | None, batch_size: int, processes: int
) -> int:
    """How many micro-batches a step has in each process, which is said where `total` decides it.

    Args:
        trainer_kwargs: config section `trainer.kwargs`, whose `accumulate_grad_batches` goes first.
        total: `data.total_batch_size`, images of a step over all processes and micro-batches; None where any will do.
        batch_size: images of a micro-batch.
    """
    wanted = trainer_kwargs.get(KEY)
    if wanted is not None:
        check_whole(f"trainer.kwargs.{KEY}", wanted, least=1)
    if total is not None:
        check_whole("data.total_batch_size", total, least=1)
    count = int(wanted or max(1, (total or 0) // (batch_size * processes)))
    if count > 1 and trainer_kwargs.get("sync_batchnorm"):
        raise InputError(
            f"trainer.kwargs.sync_batchnorm=true joins batch norms of processes, not of {count} micro-batches; remove "
            f"it, or set data.total_batch_size=null and trainer.kwargs.{KEY}=1"
        )
    return count


def describe_batch(*, batch_size: int, processes: int, micro_batches: int, total: int | None, unit: str = "") -> str:
    """The images of a step in a line: "15 images x 2 x 4 micro-batches = 120 a step"; unit: word behind the 2."""
    images = batch_size * processes * micro_batches
    parts = f"{batch_size:,} images x {processes}{unit}" + (
        f" x {micro_batches} micro-batches" if micro_batches > 1 else ""
    )
    if total is None or total == images:
        return f"{parts} = {images:,} a step"
    fitting = [b for b in range(batch_size, 0, -1) if total % (b * processes) == 0]
    remedy = f"data.batch_size={fitting[0]} gives them" if fitting else f"no data.batch_size on {processes} gives them"
    return f"{parts} = {images:,} a step, not data.total_batch_size={total:,}: {remedy}"
