"""Training images in tar shards (the WebDataset layout), on a disk or behind an address.

Shards are read by position, not as a stream: which sample comes when stays a function of the seed, whatever the number
of workers and processes, and a run goes on within an epoch exactly where it stopped. Shards behind an address are
fetched whole, once for all processes of a machine, into a folder of bounded size.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from saicinpainting.data.sampler import ShardShuffler, Shuffler
from saicinpainting.data.shard_index import SHA256, Member, Shard, ShardSample, names_in_all, read_index, read_samples
from saicinpainting.data.sources import WHERE, ImageSource, PathLike, SourceError
from saicinpainting.io.connection import is_remote, without_secrets
from saicinpainting.io.download import PATIENT_ATTEMPTS, Checksum, fetch
from saicinpainting.io.files import disk_problem
from saicinpainting.utils import InputError

CACHE = "lama-shards"
"""The folder in `cache_dir` that is ours: what is deleted to make room lies in there."""
OPEN_SHARDS = 64
"""Shards that a worker keeps open: those of all lanes' windows and some of the next."""


class ShardSource(ImageSource):
    """The images of the shards that an index names.

    Args:
        indir: the index file, its folder, or its address; the shards lie beside it.
        cache_dir: shards behind an address are kept in its folder `lama-shards`; needed for these only.
        cache_gb: how large that folder may grow; the shards that were used longest ago go first.
        window: shards of a lane over which images are shuffled, see `ShardShuffler`.
    """

    def __init__(
        self, indir: PathLike, *, cache_dir: str | None = None, cache_gb: float = 100, window: int = 4
    ) -> None:
        if window < 1:
            raise InputError(f"{WHERE}.window: expected 1 or more shards, got {window}")
        self.index = without_secrets(str(indir))
        self.window = window
        self.shards = [shard for shard in read_index(str(indir)) if shard.images]
        self.labels = names_in_all(shard.companions for shard in self.shards)
        self._ends = list(accumulate(shard.images for shard in self.shards))
        self._places = [shard.place(str(indir)) for shard in self.shards]
        self._cache = self._make_cache(cache_dir, cache_gb)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def _make_cache(self, cache_dir: str | None, cache_gb: float) -> ShardCache | None:
        if not any(map(is_remote, self._places)):
            missing = [place for place in self._places if not os.path.isfile(place)]
            if missing:
                raise InputError(f"{self.index}: the shard {missing[0]} is missing ({len(missing)} in all)")
            for place, shard in zip(self._places, self.shards, strict=True):
                if (found := os.path.getsize(place)) != shard.bytes:
                    raise InputError(f"{place} has {found} bytes, its index says {shard.bytes}; copy the shard anew")
            return None
        if not cache_dir:
            raise InputError(f"{WHERE}.cache_dir: shards behind an address need a folder to be kept in; set it")
        return ShardCache(Path(cache_dir) / CACHE, int(cache_gb * 1e9))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        number, place = self._locate(index)
        opened = self._open.get(number)
        return f"{without_secrets(self._places[number])}/{opened.samples[place].key if opened else place}"

    def read(self, index: int) -> bytes:
        shard, sample = self._sample(index)
        return shard.read(sample.image)

    def read_label(self, index: int, label: str) -> bytes:
        shard, sample = self._sample(index)
        return shard.read(sample.labels[label])

    def shuffler(self) -> Shuffler:
        return ShardShuffler([shard.images for shard in self.shards], self.window)

    def near(self, index: int) -> range:
        number, _ = self._locate(index)
        return range(self._ends[number] - self.shards[number].images, self._ends[number])

    def _locate(self, index: int) -> tuple[int, int]:
        """The shard of image `index`, and its place in there."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number] - self.shards[number].images)

    def _sample(self, index: int) -> tuple[_OpenShard, ShardSample]:
        """The shard of image `index`, opened, and where its files lie in there."""
        number, place = self._locate(index)
        if number not in self._open:
            where, shard = self._places[number], self.shards[number]
            path = Path(where)
            file = self._cache.open(where, shard) if self._cache and is_remote(where) else path.open("rb")
            self._open[number] = _OpenShard(file, shard)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].file.close()
        self._open.move_to_end(number)
        return self._open[number], self._open[number].samples[place]

    def __getstate__(self) -> dict[str, object]:
        """Workers open shards themselves."""
        return {**self.__dict__, "_open": OrderedDict()}


class _OpenShard:
    def __init__(self, file: BinaryIO, shard: Shard) -> None:
        # Not shared with a forked process: `os.pread` needs no position.
        self.file = file
        self.samples = read_samples(file)
        if len(self.samples) != shard.images:
            raise SourceError(
                f"{file.name} holds {len(self.samples)} images, its index says {shard.images}; make the index again "
                "with bin/make_shards.py --index"
            )

    def read(self, member: Member) -> bytes:
        data = os.pread(self.file.fileno(), member.size, member.offset)
        if len(data) != member.size:
            raise OSError(f"{self.file.name} ends early")
        return data


class ShardCache:
    """Shards fetched from addresses into `folder`, at most `max_bytes` of them; processes share it.

    They are named after their checksums. No other file of the folder is touched.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def open(self, address: str, shard: Shard) -> BinaryIO:
        """The file of the shard, fetched if it is not there.

        Raises:
            SourceError: it cannot be fetched or kept, or what came is not what the index says.
        """
        path = self.folder / f"{shard.sha256}.tar"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                for _ in range(2):
                    if not path.is_file():
                        self._fetch(address, path, shard)
                    with suppress(FileNotFoundError):  # it was there a moment ago; others made room
                        os.utime(path)  # what was used last goes last
                        return path.open("rb")
        except OSError as error:  # of an image it would be one more that cannot be used
            raise SourceError(f"{WHERE}.cache_dir: {disk_problem(error) or error}") from error
        raise SourceError(f"{path} was removed as soon as it was there; set {WHERE}.cache_gb higher")

    def _fetch(self, address: str, path: Path, shard: Shard) -> None:
        with FileLock(self.folder / "room.lock"):
            self._make_room(shard.bytes)
        expected: dict[str, Any] = {"size": shard.bytes, "checksum": Checksum("sha256", shard.sha256)}
        try:
            fetch(address, path, what="shard", **expected, attempts=PATIENT_ATTEMPTS, progress=False)
        except InputError as error:
            raise SourceError(str(error)) from error

    def _make_room(self, needed: int) -> None:
        """A shard that another process is reading stays readable for it after its name is gone."""
        files = []
        for file in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                if SHA256.fullmatch(file.stem) and stat.S_ISREG((status := file.lstat()).st_mode):
                    files.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total + needed <= self.max_bytes:
                break
            total -= size
            file.unlink(missing_ok=True)
