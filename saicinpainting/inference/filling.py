"""Filling batches of a folder's images, by fewer where a batch is refused or does not fit into the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import default_collate

from saicinpainting.inference.backends import Backend, Batch
from saicinpainting.inference.overlap import Download
from saicinpainting.io.extras import ImageExtras
from saicinpainting.io.memory import Attempts
from saicinpainting.utils import InputError


class Read(NamedTuple):
    """Item `item` of a data set, or why it cannot be read; inputs: the digest of its files; extras: for its result."""

    item: int
    sample: Batch | str
    inputs: str = ""
    extras: ImageExtras = ImageExtras()


class Filled(NamedTuple):
    """A batch of `samples` that is computed, or is about to be."""

    samples: Sequence[Read]
    batch: Batch
    images: Download


class Filling:
    """Fills batches and writes them.

    Where a batch is refused, its images are filled one by one, so that only those that cannot be filled are skipped;
    where it is too large for the memory, it is halved.
    """

    def __init__(
        self, backend: Backend, write: Callable[[Read, np.ndarray], None], skip: Callable[[int, str], None]
    ) -> None:
        self._backend, self._write, self._skip = backend, write, skip
        self._attempts = Attempts()

    def start(self, samples: Sequence[Read]) -> Iterator[Filled]:
        """`samples` in as many batches as it takes."""
        first = samples[0].sample
        assert not isinstance(first, str)
        height, width = first["image"].shape[-2:]
        try:
            filled = self._attempts.attempt(len(samples), height * width, lambda: self._compute(samples))
        except InputError as error:
            yield from self._start_smaller(samples, 1, str(error))
            return
        if filled is None:
            yield from self._start_smaller(samples, -(-len(samples) // 2), "out of memory")
        else:
            yield filled

    def _compute(self, samples: Sequence[Read]) -> Filled:
        batch: Batch = default_collate([read.sample for read in samples])
        return Filled(samples, batch, Download(self._backend(batch), deep=samples[0].extras.deep))

    def _start_smaller(self, samples: Sequence[Read], size: int, reason: str) -> Iterator[Filled]:
        if len(samples) == 1:
            self._skip(samples[0].item, reason)
            return
        for first in range(0, len(samples), size):
            yield from self.start(samples[first : first + size])

    def finish(self, filled: Filled) -> None:
        """Write the images of a batch, without their padding."""
        try:
            pixels = filled.images.pixels()
        except InputError as error:
            for one in self._start_smaller(filled.samples, 1, str(error)):
                self.finish(one)
            return
        for place, read in enumerate(filled.samples):
            height, width = _size(filled.batch, place, pixels)
            # Copied: a slice of the batch would keep all of it in memory until it is written.
            self._write(read, pixels[place, :height, :width].copy())


def _size(batch: Mapping[str, Any], place: int, pixels: np.ndarray) -> tuple[int, int]:
    """The size of an image before padding."""
    if "unpad_to_size" not in batch:
        return pixels.shape[1], pixels.shape[2]
    height, width = (int(np.asarray(side).reshape(-1)[place]) for side in batch["unpad_to_size"])
    return height, width
