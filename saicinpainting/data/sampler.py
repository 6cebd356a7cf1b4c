"""Which image comes when, and with which random numbers: functions of the run's seed, the epoch and the image alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from torch.utils.data import Sampler

# First words of the entropy, so that permutations and samples never draw from the same stream.
_PERMUTATION, _SAMPLE, _PART = 0, 1, 2


class SampleKey(NamedTuple):
    """What a training data set has to know of one sample.

    It travels to the loader's workers with every sample, because workers that live as long as the run never hear of
    a new epoch.
    """

    image: int  # its number in the data set
    seed: int  # of the augmentation and the mask, in [0, 2**32)
    samples_before: int  # drawn before this one since the run began, over all processes; for the masks' ramps


class TrainSampler(Sampler[SampleKey]):
    """One process's share of an epoch: which training images, in which order.

    Epochs are cut from an endless stream of passes over all images; unless told otherwise an epoch is a pass. A pass
    is a permutation that `(seed, pass)` decides. Process `rank` of `world_size` takes every `world_size`-th image of
    an epoch, beginning with the `rank`-th. Every process gets the same number of images: up to `world_size - 1` images
    of an epoch are left out, and if there are fewer images than processes some come twice. An epoch may begin after
    any number of images (`begin_at`), where a run is resumed.

    Args:
        n_images: how many there are.
        seed: of the run, not negative.
        shuffle: False keeps the images' own order in every pass.
        rank: of this process.
        world_size: how many processes there are.
        epoch_images: images of an epoch, over all processes; None: all of them.
        shuffler: permutes a pass, `ShardShuffler` where images lie in shards; None: any image may follow any.
        mixture: draws parts of the images by shares; a pass then has as many images as there are, not each once.
    """

    def __init__(
        self,
        n_images: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch_images: int | None = None,
        shuffler: Shuffler | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self.n_images, self.seed, self.shuffle = n_images, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch_images = epoch_images or n_images
        self.shuffler, self.mixture = shuffler, mixture
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """This process's images of a whole epoch, wherever this one began."""
        return max(self.epoch_images // self.world_size, 1)

    def begin_at(self, epoch: int, n_images: int) -> int:
        """Begin with `epoch` after its first `n_images`, counted over all processes.

        Where that is no multiple of `world_size`, because there were more or fewer processes before, each process
        skips one image more than its share: no image comes twice.

        Returns:
            How many of its own images this process skips.
        """
        self.epoch, self.start = epoch, min(-(-n_images // self.world_size), len(self))
        return self.start

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, also before the one that `begin_at` named."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[SampleKey]:
        # Read once: a loader that has begun to read ahead stays in its epoch.
        first = self.epoch * self.epoch_images
        current_pass, images, passes = -1, np.empty(0, np.int64), np.empty(0, np.int64)
        for own in range(self.start, len(self)):
            samples_before = first + own * self.world_size + self.rank
            pass_number, place = divmod(samples_before, self.n_images)
            if pass_number != current_pass:
                current_pass, (images, passes) = pass_number, self._draws(pass_number)
            image = int(images[place])
            yield SampleKey(image, sample_seed(self.seed, int(passes[place]), image), samples_before)

    def _draws(self, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a pass in their order, and in which pass over all images, or over its part, each of them is."""
        if self.mixture is not None:
            return self.mixture.draw(self.seed, pass_number, shuffle=self.shuffle)
        return self._permutation(pass_number), np.broadcast_to(pass_number, self.n_images)

    def _permutation(self, pass_number: int) -> np.ndarray:
        """The images of a pass in their order: int64 (N,)."""
        if not self.shuffle:
            return np.arange(self.n_images)
        rng = _random(_PERMUTATION, self.seed, pass_number)
        return self.shuffler.draw(rng) if self.shuffler else rng.permutation(self.n_images)


def count_batches(images: int, batch_size: int, *, drop_last: bool) -> int:
    """Batches of one process's `images`."""
    return (images + (0 if drop_last else batch_size - 1)) // batch_size


class MicroBatchSampler(Sampler[list[SampleKey]]):
    """Batches of micro-batches, one after another; each has the images that a process with its sampler would have.

    Args:
        samplers: one for each micro-batch; all have as many images.
        batch_size: images of a micro-batch; the last of an epoch may have fewer, all of them alike.
        drop_last: leave those out.
    """

    def __init__(self, samplers: Sequence[TrainSampler], batch_size: int, *, drop_last: bool = False) -> None:
        self.samplers, self.batch_size, self.drop_last = samplers, batch_size, drop_last

    @property
    def sampler(self) -> MicroBatchSampler:
        """Lightning tells a batch sampler's `sampler` of a new epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return count_batches(len(self.samplers[0]), self.batch_size, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        streams = [iter(sampler) for sampler in self.samplers]
        while True:
            parts = [list(islice(stream, self.batch_size)) for stream in streams]
            if not parts[0] or (self.drop_last and len(parts[0]) < self.batch_size):
                return
            yield [key for part in parts for key in part]


def _random(*entropy: int) -> np.random.RandomState:
    # Unlike Generator's, the streams of RandomState are the same in every version of numpy.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))


class Mixture:
    """Draws the parts of a data set by shares, whatever their sizes.

    Draws come in rounds of as many images as the data set has. A part has its share of the draws of any number of
    rounds, to one image. They go on through passes over the part, each a permutation of its own, so that no image of a
    part comes again before all others of it have come.

    Args:
        sizes: images of each part; the data set has them one part after another.
        shares: of each part, above 0; they are normalised to sum to 1.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float]) -> None:
        self.sizes, self.shares = np.asarray(sizes, np.int64), np.asarray(shares, np.float64) / sum(shares)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._bounds = np.concatenate([[0], np.cumsum(self.shares)[:-1], [1]])

    def drawn(self, rounds: int) -> np.ndarray:
        """How many images of each part come in the first `rounds` rounds: int64, one for each part."""
        return np.diff(np.rint(rounds * self.first[-1] * self._bounds).astype(np.int64))

    def draw(self, seed: int, number: int, *, shuffle: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The images of a round in their order, and in which pass over its part each of them is: int64 (N,) both."""
        images, passes = [], []
        for part, (begin, end) in enumerate(zip(self.drawn(number), self.drawn(number + 1), strict=True)):
            size = int(self.sizes[part])
            for pass_number in range(int(begin) // size, -(-int(end) // size)):
                order = np.arange(size)
                if shuffle:
                    order = _random(_PART, seed, part, pass_number).permutation(size)
                before = pass_number * size
                own = self.first[part] + order[max(begin - before, 0) : max(end - before, 0)]
                images.append(own)
                passes.append(np.full(len(own), pass_number))
        together = np.concatenate(images), np.concatenate(passes)
        if not shuffle:
            return together
        order = _random(_PERMUTATION, seed, number).permutation(len(together[0]))
        return together[0][order], together[1][order]


class Shuffler(Protocol):
    """Permutes the images of a data set."""

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """A permutation of the numbers of all images: int64 (N,)."""
        ...


class ShardShuffler:
    """Permutes images that lie in shards so that few shards are open at a time.

    The shards of a pass are dealt, in random order, to `LANES` lanes. Within a lane, images are shuffled over `window`
    shards. Consecutive images come from consecutive lanes, so that a process, which takes every `world_size`-th image,
    meets `LANES / gcd(LANES, world_size)` lanes: if `world_size` divides `LANES`, none but its own; with 3 processes,
    say, each of them reads all shards.

    Args:
        sizes: images of each shard; the data set has them one shard after another.
        window: shards that are open together in a lane.
    """

    LANES = 8  # GPUs of a usual machine; the same for any `world_size`, on which no order may depend

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


def sample_seed(seed: int, pass_number: int, image: int) -> int:
    """The seed of image number `image` in a pass over all images, in [0, 2**32); `seed`: of the run."""
    return int(np.random.SeedSequence((_SAMPLE, seed, pass_number, image)).generate_state(1)[0])


def share_of(n_images: int, *, rank: int, world_size: int) -> range:
    """The evaluation images of one process.

    Every image belongs to one process, unless there are fewer images than processes: a process without any would never
    meet the others where they add up their metrics, so it takes one that another has, too. Such images count more than
    once in the metrics.

    Returns:
        Numbers of images, in their own order; at least one.
    """
    if rank < n_images:
        return range(rank, n_images, world_size)
    shared = rank % n_images
    return range(shared, shared + 1)


def equal_size_batches(images: Iterable[int], sizes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Batches of up to `batch_size` of `images` that have one size; sizes in the order in which they first come.

    sizes: of every image of the set.
    """
    alike: dict[Hashable, list[int]] = {}
    for image in images:
        alike.setdefault(sizes[image], []).append(image)
    return [each[i : i + batch_size] for each in alike.values() for i in range(0, len(each), batch_size)]
