"""The index of a set of shards: which there are, how large, how many images each holds, and their checksums."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from saicinpainting.data.sources import SourceError
from saicinpainting.io.archives import BLOCK, damage_as, open_tar, tar_members
from saicinpainting.io.buckets import bucket_of, is_bucket
from saicinpainting.io.connection import is_address, is_remote, open_address, without_secrets
from saicinpainting.io.files import write_whole
from saicinpainting.io.folders import IMAGE_SUFFIXES
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from _typeshed import SupportsRead

INDEX = "index.json"
FORMAT = "lama-shards-1"
SHA256 = re.compile("[0-9a-f]{64}")
MOST_BYTES, MOST_INDEX_BYTES, MOST_COUNTED = 1 << 40, 1 << 24, 1_000_000
"""Of a shard; of an index, of a hundred thousand shards; of what {000..146} counts."""
MOST_IMAGES = 1 << 28
"""Of all shards: each takes a few bytes in memory."""
IMAGE_KINDS = tuple(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Args:
        name: its file name, or its address as far as it differs from that of the index.
        images: samples in it.
        companions: the labels that each of them has; called so in the index.
    """

    name: str
    bytes: int
    sha256: str
    images: int
    companions: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Shard:
        """What an index says of a shard; KeyError, TypeError or ValueError if it says something else."""
        if not isinstance(entry["name"], str) or not isinstance(entry["companions"], list | tuple):
            raise TypeError(f"not a shard: {str(entry)[:200]}")
        shard = cls(**{**entry, "companions": tuple(entry["companions"])})
        counts = all(type(number) is int and number >= 0 for number in (shard.bytes, shard.images))
        labels = all(isinstance(label, str) for label in shard.companions)
        # An image takes a block and more of a tar file. The checksum becomes a file's name where shards are cached.
        fits = counts and shard.images * BLOCK <= shard.bytes < MOST_BYTES
        if not fits or not labels or not SHA256.fullmatch(shard.sha256):
            raise ValueError(f"not a shard: {str(entry)[:200]}")
        parts = re.split(r"[/\\?]|%2[fF]", shard.name.replace("%2e", ".").replace("%2E", "."))
        if shard.name.startswith("?") or shard.name in ("", ".") or not shard.name.isprintable() or ".." in parts:
            raise ValueError(f"{shard.name[:200]!r} leads out of the index's folder")
        return shard

    def place(self, index: str) -> str:
        """The file or address of the shard, for the index at `index`: it lies beside it unless its name says where."""
        if is_remote(self.name) or os.path.isabs(self.name):
            return self.name
        place, query = _without_query(index_place(index))
        folder, slash, _ = place.rpartition("/")
        return f"{folder}{slash}{self.name}{query}"


class Member(NamedTuple):
    """A file in a shard: where its bytes lie."""

    offset: int
    size: int


class ShardSample(NamedTuple):
    """One sample of a shard; `labels`: its label files by label."""

    key: str
    image: Member
    labels: dict[str, Member]


def samples_of(tar: tarfile.TarFile, name: str) -> list[ShardSample]:
    """The samples of an open shard, in the WebDataset layout: `KEY.jpg` with `KEY.segm.png` and the like beside it.

    Raises:
        InputError: a sample without an image, or with two.
    """
    groups: dict[str, dict[str, Member]] = {}
    for member in tar_members(tar):
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, kind = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        groups.setdefault(key, {})[kind.lower()] = Member(member.offset_data, member.size)
    samples = []
    for key, members in groups.items():
        images = [kind for kind in members if kind in IMAGE_KINDS]
        if len(images) != 1:
            raise InputError(
                f"{without_secrets(name)}: sample {key} has {len(images)} images ({', '.join(members)}); expected one "
                f"of {', '.join('.' + kind for kind in IMAGE_KINDS)}"
            )
        labels = {kind.removesuffix(".png"): member for kind, member in members.items() if kind.endswith(".png")}
        samples.append(ShardSample(key, members[images[0]], labels))
    return samples


def read_samples(file: BinaryIO) -> list[ShardSample]:
    """The samples of an open shard."""
    remedy = "make it again or remove it from the index"
    damaged = damage_as(lambda what: SourceError(f"{file.name} is no whole tar file: {what}; {remedy}"))
    with damaged, open_tar(file, stream=False) as tar:
        return samples_of(tar, file.name)


def describe(name: str, file: SupportsRead[bytes]) -> Shard:
    """Read a whole shard once, from a file or a connection."""
    counted, shown = _Counted(file), without_secrets(name)
    damaged = damage_as(lambda what: InputError(f"{shown} is no whole tar file: {what}; make or copy it anew"))
    with damaged, open_tar(cast(IO[bytes], counted), stream=True) as tar:
        samples = samples_of(tar, name)
    return Shard(
        name, counted.bytes, counted.digest.hexdigest(), len(samples), names_in_all(one.labels for one in samples)
    )


def names_in_all(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The names that every group has, sorted."""
    sets = list(map(set, groups))
    return tuple(sorted(set.intersection(*sets))) if sets else ()


class _Counted:
    """Passes bytes on and keeps their number and checksum."""

    def __init__(self, file: SupportsRead[bytes]) -> None:
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        self.digest.update(data)
        return data


def write_index(path: Path, shards: Iterable[Shard]) -> None:
    """`index.json`, and `SHA256SUMS` beside it for `sha256sum -c`."""
    shards = list(shards)
    content = {"format": FORMAT, "shards": [asdict(shard) for shard in shards]}
    sums = "".join(f"{shard.sha256}  {shard.name}\n" for shard in shards)
    for file, text in ((path.with_name("SHA256SUMS"), sums), (path, json.dumps(content, indent=1) + "\n")):
        write_whole(file, text)


def read_index(place: str) -> list[Shard]:
    """The shards of an index: a file, a folder that holds `index.json`, or an address of one, in a bucket too."""
    place = index_place(place)
    shown = without_secrets(place)
    try:
        if is_remote(place):
            with open_address(place) as answer:
                data = answer.read(MOST_INDEX_BYTES + 1)
                while len(data) <= MOST_INDEX_BYTES and (more := answer.read(1 << 20)):
                    data += more
        else:
            with open(place, "rb") as file:
                data = file.read(MOST_INDEX_BYTES + 1)
        if len(data) > MOST_INDEX_BYTES:
            raise ValueError(f"more than {MOST_INDEX_BYTES} bytes")
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{shown}: cannot read the index of the shards ({error}); see bin/make_shards.py") from error
    try:
        content: dict[str, Any] = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        shards = [Shard.of(shard) for shard in content["shards"]]
        for shard in shards:
            if is_remote(place) and (os.path.isabs(shard.name) or shard.name.startswith("file:")):
                raise ValueError(f"{shard.name[:200]!r} is a file of this machine, and the index is not")
            if is_remote(place) and is_bucket(shard.name) and bucket_of(shard.name) != bucket_of(place):
                raise ValueError(f"{shard.name[:200]!r} is in another bucket than the index")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{shown} is no index of shards ({reason}); make it with bin/make_shards.py --index"
        ) from error
    if not 0 < (images := sum(shard.images for shard in shards)) <= MOST_IMAGES:
        raise InputError(f"{shown}: the shards hold {images or 'no'} images, expected 1 to {MOST_IMAGES}")
    return shards


def index_place(place: str) -> str:
    """The file of an index whose folder or file is given."""
    place, query = _without_query(place)
    return f"{place}{query}" if place.endswith(".json") else f"{place.rstrip('/')}/{INDEX}{query}"


def _without_query(place: str) -> tuple[str, str]:
    """What follows a ? in an address, a key say, holds for all that lies beside it."""
    address, mark, query = place.partition("?") if is_address(place) else (place, "", "")
    return address, mark + query


def expand(patterns: Iterable[str]) -> Iterator[str]:
    """Files and addresses that patterns stand for: `{000..146}` counts, `*` matches local files, a folder its tars."""
    for pattern in patterns:
        counted = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        if counted and not os.path.exists(pattern):
            first, last = counted.groups()
            if int(last[:18]) - int(first[:18]) > MOST_COUNTED or len(last) > 18:
                raise InputError(f"{without_secrets(pattern)[:200]}: counts more than {MOST_COUNTED} shards")
            numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
            yield from expand(pattern.replace(counted[0], number, 1) for number in numbers)
        elif os.path.isfile(pattern) or is_remote(pattern):
            yield pattern
        elif os.path.isdir(pattern) or glob.has_magic(pattern):
            files = os.path.join(glob.escape(pattern), "*.tar") if os.path.isdir(pattern) else pattern
            found = [file for file in sorted(glob.glob(files)) if os.path.isfile(file)]
            if not found:
                raise InputError(f"{pattern}: no shard *.tar there; name the folder of the shards, or their files")
            yield from found
        else:
            yield pattern
