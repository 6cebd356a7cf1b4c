"""Which image comes when, and with which random numbers: functions of the run's seed, the epoch and the image alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

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

    Epochs are cut from an endless stream of passes over all images; unless told otherwise an epoch is a pass. The order
    of a pass is a permutation that `(seed, pass)` decides. Process `rank` of `world_size` takes every `world_size`-th
    image of an epoch, beginning with the `rank`-th. Every process gets the same number of images: up to
    `world_size - 1` images of an epoch are left out, and if there are fewer images than processes some come twice.
    An epoch may begin after any number of images (`begin_at`), where a run is resumed.

    Args:
        images: how many there are.
        seed: of the run, not negative.
        shuffle: False keeps the images' own order in every pass.
        rank: this process's number.
        world_size: how many processes there are.
        epoch_images: images of an epoch, over all processes; None: all of them.
        order: how a pass is permuted, `ShardShuffle` where images lie in shards; None: any image may follow any.
    """

    def __init__(
        self,
        images: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch_images: int | None = None,
        order: Shuffle | None = None,
    ) -> None:
        self.images, self.seed, self.shuffle = images, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch_images = epoch_images or images
        self.order = order
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Images of a whole epoch, wherever this one began."""
        return max(self.epoch_images // self.world_size, 1)

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
        first, drawn, order = self.epoch * self.epoch_images, -1, np.empty(0, np.int64)
        for own in range(self.start, len(self)):
            position = first + own * self.world_size + self.rank
            number, place = divmod(position, self.images)
            if number != drawn:
                drawn, order = number, self._order_of(number)
            index = int(order[place])
            yield SampleKey(index, sample_seed(self.seed, number, index), position)

    def _order_of(self, number: int) -> np.ndarray:
        """The images of a pass."""
        if not self.shuffle:
            return np.arange(self.images)
        # Unlike Generator's, the streams of RandomState are the same in every version of numpy.
        bits = np.random.MT19937(np.random.SeedSequence((_ORDER, self.seed, number)))
        rng = np.random.RandomState(bits)
        return self.order.draw(rng) if self.order else rng.permutation(self.images)


class Shuffle(Protocol):
    """Permutations of a data set's images."""

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """The numbers of all images, each once."""
        ...


class ShardShuffle:
    """Images that lie in shards: a few shards at a time are read, and every process needs but its share of them.

    The shards of a pass are dealt, in random order, to `LANES` lanes, which take turns: of `world_size` processes, a
    divisor of `LANES`, each keeps to lanes of its own. Within a lane, images are shuffled over `window` shards.

    Args:
        sizes: images of each shard; the data set has them one shard after another.
        window: shards that are open together in a lane.
    """

    LANES = 8

    def __init__(self, sizes: Sequence[int], window: int) -> None:
        self.sizes, self.window = np.asarray(sizes, np.int64), window
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])[:-1]

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        shards = rng.permutation(len(self.sizes))
        lanes = [self._lane(shards[i :: self.LANES], rng) for i in range(min(self.LANES, len(shards)))]
        together = min(map(len, lanes))
        in_turns = np.stack([lane[:together] for lane in lanes], axis=1).ravel()
        return np.concatenate([in_turns, *(lane[together:] for lane in lanes)])

    def _lane(self, shards: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        windows = [shards[i : i + self.window] for i in range(0, len(shards), self.window)]
        return np.concatenate([rng.permutation(np.concatenate([self._images(s) for s in w])) for w in windows])

    def _images(self, shard: int) -> np.ndarray:
        return np.arange(self.first[shard], self.first[shard] + self.sizes[shard])


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed in [0, 2**32) of image `index` in pass (unless told otherwise: epoch) `epoch` of a run with `seed`."""
    return int(np.random.SeedSequence((_SAMPLE, seed, epoch, index)).generate_state(1)[0])


def share_of(images: int, *, rank: int, world_size: int) -> range:
    """The evaluation images of one process: every image belongs to one of them, in its own order.

    A process without any would never meet the others where they add up their metrics: where there are fewer images
    than processes, each of those left over takes one that another has, too.
    """
    return range(rank, images, world_size) or range(rank % images, rank % images + 1)


def equal_size_batches(images: Iterable[int], sizes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Batches of up to `batch_size` of `images` that have one size; sizes in the order in which they first come.

    sizes: of every image of the set.
    """
    alike: dict[Hashable, list[int]] = {}
    for image in images:
        alike.setdefault(sizes[image], []).append(image)
    return [each[i : i + batch_size] for each in alike.values() for i in range(0, len(each), batch_size)]
