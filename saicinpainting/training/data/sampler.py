"""Which image comes when, and with which random numbers: functions of the run's seed, the epoch and the image alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# First words of the entropy, so that orders and samples never draw from the same stream.
_ORDER, _SAMPLE = 0, 1


class SampleKey(NamedTuple):
    """What a training data set has to know of one sample.

    It travels to the loader's workers with every sample, because workers that live as long as the run never hear of
    a new epoch.
    """

    image: int  # its number in the data set
    seed: int  # of the augmentation and the mask, in [0, 2**32)
    iteration: int  # samples drawn before this one since the run began, over all processes; for the masks' ramps


class TrainSampler(Sampler[SampleKey]):
    """One process's share of the training images, in the order of an epoch.

    The order is a permutation that `(seed, epoch)` decides; process `rank` of `world_size` takes every
    `world_size`-th image of it, beginning with the `rank`-th. Every process gets the same number of images: up to
    `world_size - 1` images of an epoch are left out, and if there are fewer images than processes some come twice.
    An epoch may begin after any number of images (`begin_at`), where a run is resumed.

    Args:
        images: how many there are.
        seed: of the run, not negative.
        shuffle: False keeps the images' own order in every epoch.
        rank: this process's number.
        world_size: how many processes there are.
    """

    def __init__(self, images: int, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        self.images, self.seed, self.shuffle = images, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Images of a whole epoch, wherever this one began."""
        return max(self.images // self.world_size, 1)

    def begin_at(self, epoch: int, images: int) -> int:
        """Begin with `epoch` after its first `images`, counted over all processes.

        Returns:
            How many of its own images this process passes over. Where `images` is no multiple of the number of
            processes (there were more or fewer of them before) it is rounded up: no image comes twice.
        """
        self.epoch, self.start = epoch, min(-(-images // self.world_size), len(self))
        return self.start

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, also before the one that `begin_at` named."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[SampleKey]:
        # The epoch of the moment: a loader that has begun to read ahead keeps to it.
        epoch, order = self.epoch, self._order()
        for own in range(self.start, len(self)):
            position = own * self.world_size + self.rank
            index = int(order[position % self.images])
            yield SampleKey(index, sample_seed(self.seed, epoch, index), epoch * self.images + position)

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.images)
        # Unlike Generator's, the streams of RandomState are the same in every version of numpy.
        bits = np.random.MT19937(np.random.SeedSequence((_ORDER, self.seed, self.epoch)))
        return np.random.RandomState(bits).permutation(self.images)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed in [0, 2**32) of image `index` in `epoch` of a run with `seed`."""
    return int(np.random.SeedSequence((_SAMPLE, seed, epoch, index)).generate_state(1)[0])


def share_of(images: int, *, rank: int, world_size: int) -> range:
    """The evaluation images of one process: every image belongs to one of them, in its own order.

    A process without any would never meet the others where they add up their metrics: where there are fewer images
    than processes, each of those left over takes one that another has, too.
    """
    return range(rank, images, world_size) or range(rank % images, rank % images + 1)
