"""Training images in tar shards (the WebDataset layout), on a disk or behind an address.

Shards are read by position, not as a stream: which sample comes when stays a function of the seed, whatever the number
of workers and processes, and a run goes on within an epoch exactly where it stopped. Shards behind an address are
fetched whole, once for all processes of a machine, into a folder of bounded size.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from saicinpainting.training.data.sampler import Nearby, Order
from saicinpainting.training.data.shard_index import (
    TIMEOUT_SECONDS,
    Member,
    Shard,
    ShardSample,
    index_place,
    is_address,
    read_index,
    read_samples,
)
from saicinpainting.training.data.sources import WHERE, ImageSource, SourceError
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
OPEN_SHARDS = 64
"""Shards that a worker keeps open: those of all lanes' windows and some of the next."""
ATTEMPTS = 4
CHUNK_BYTES = 1 << 20


class ShardSource(ImageSource):
    """The images of the shards that an index names.

    Args:
        index: the index file, its folder, or its address; the shards lie beside it.
        cache_dir: where shards behind an address are kept; needed for these only.
        cache_gb: how large `cache_dir` may grow; the shards that were used longest ago go first.
        window: shards of a lane over which images are shuffled, see `Nearby`.
    """

    def __init__(self, index: str, *, cache_dir: str | None = None, cache_gb: float = 100, window: int = 4) -> None:
        if window < 1:
            raise InputError(f"{WHERE}.window: expected 1 or more shards, got {window}")
        self.index = str(index)
        self.window = window
        self.shards = [shard for shard in read_index(self.index) if shard.images]
        self.companions = tuple(sorted(set.intersection(*(set(shard.companions) for shard in self.shards))))
        self._ends = list(accumulate(shard.images for shard in self.shards))
        base = index_place(self.index).rpartition("/")[0]
        self._places = [
            s.name if is_address(s.name) or os.path.isabs(s.name) else f"{base}/{s.name}" for s in self.shards
        ]
        self._cache = self._make_cache(cache_dir, cache_gb)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def _make_cache(self, cache_dir: str | None, cache_gb: float) -> ShardCache | None:
        if not any(map(is_address, self._places)):
            missing = [place for place in self._places if not os.path.isfile(place)]
            if missing:
                raise InputError(f"{self.index}: the shard {missing[0]} is missing ({len(missing)} in all)")
            return None
        if not cache_dir:
            raise InputError(f"{WHERE}.cache_dir: shards behind an address need a folder to be kept in; set it")
        return ShardCache(Path(cache_dir), int(cache_gb * 1e9))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        number, place = self._locate(index)
        opened = self._open.get(number)
        return f"{self._places[number]}/{opened.samples[place].key if opened else place}"

    def read(self, index: int) -> bytes:
        number, place = self._locate(index)
        shard = self._opened(number)
        return shard.read(shard.samples[place].image)

    def read_companion(self, index: int, companion: str) -> bytes:
        number, place = self._locate(index)
        shard = self._opened(number)
        return shard.read(shard.samples[place].labels[companion])

    def order(self) -> Order:
        return Nearby([shard.images for shard in self.shards], self.window)

    def _locate(self, index: int) -> tuple[int, int]:
        """The shard of image `index`, and its place in there."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number] - self.shards[number].images)

    def _opened(self, number: int) -> _OpenShard:
        if number not in self._open:
            place = self._places[number]
            path = self._cache.fetch(place, self.shards[number]) if self._cache and is_address(place) else Path(place)
            self._open[number] = _OpenShard(path, self.shards[number])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, object]:
        """Workers open shards themselves."""
        return {**self.__dict__, "_open": OrderedDict()}


class _OpenShard:
    def __init__(self, path: Path, shard: Shard) -> None:
        self.samples: list[ShardSample] = read_samples(path)
        if len(self.samples) != shard.images:
            raise SourceError(
                f"{path} holds {len(self.samples)} images, its index says {shard.images}; make the index again with "
                "bin/make_shards.py --index"
            )
        # Not shared with a forked process: `os.pread` needs no position.
        self._file: BinaryIO = path.open("rb", buffering=0)

    def read(self, member: Member) -> bytes:
        data = os.pread(self._file.fileno(), member.size, member.offset)
        if len(data) != member.size:
            raise OSError(f"{self._file.name} ends early")
        return data

    def close(self) -> None:
        self._file.close()


class ShardCache:
    """Shards fetched from addresses into `folder`, at most `max_bytes` of them; processes share it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def fetch(self, address: str, shard: Shard) -> Path:
        """The file of the shard, fetched if it is not there.

        Raises:
            SourceError: it cannot be fetched, or what came is not what the index says.
        """
        path = self.folder / f"{shard.sha256[:16]}-{address.rpartition('/')[2]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                self._make_room(shard.bytes)
                self._fetch(address, shard, path)
            os.utime(path)  # what was used last goes last
        return path

    def _make_room(self, needed: int) -> None:
        """A shard that another process is reading stays readable for it after its name is gone."""
        files = sorted((f for f in self.folder.glob("*.tar") if f.is_file()), key=lambda f: f.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total + needed <= self.max_bytes:
                break
            total -= file.stat().st_size
            file.unlink(missing_ok=True)

    def _fetch(self, address: str, shard: Shard, path: Path) -> None:
        part = path.with_name(f"{path.name}.part")
        reason: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                LOGGER.warning("%s: %s; trying again", address, reason)
                time.sleep(2.0 ** (attempt - 1))
            try:
                _download(address, part, shard.bytes)
                digest = _sha256(part)
                if digest == shard.sha256:
                    os.replace(part, path)
                    return
                part.unlink()
                reason = ValueError(f"its SHA-256 is {digest}, the index says {shard.sha256}")
            except urllib.error.HTTPError as error:
                reason = error
                if error.code in (401, 403, 404):
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = error
        raise SourceError(f"cannot fetch the shard {address}: {reason}")


def _download(address: str, part: Path, size: int) -> None:
    """Append what `part` lacks of the file at `address`, so that a cut connection loses nothing."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        return
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        going_on = response.status == http.client.PARTIAL_CONTENT
        with part.open("ab" if going_on else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
    received = part.stat().st_size
    if received != size:
        raise OSError(f"{received} of {size} bytes came")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()  # Python 3.10
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
