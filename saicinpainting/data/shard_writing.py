"""Write shards from folders of images; the next start resumes what was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import webdataset
from tqdm import tqdm

from saicinpainting.data.shard_index import INDEX, Shard, describe, write_index
from saicinpainting.data.sources import ImageSource
from saicinpainting.io.files import map_in_processes, whole
from saicinpainting.io.provenance import Provenance
from saicinpainting.utils import InputError


@dataclass(frozen=True)
class ShardContent:
    """Which images go into a shard, in this order; `keys`: what they are called in there."""

    name: str
    images: tuple[int, ...]
    keys: tuple[str, ...]


def write_shards(
    source: ImageSource,
    outdir: Path,
    *,
    root: Path,
    shard_images: int = 1000,
    shuffle: int | None = None,
    n_jobs: int = 1,
) -> list[Shard]:
    """Write the images of `source`, byte by byte as they are, to `outdir/shard-000000.tar` and so on, with an index.

    The same images and settings give the same bytes, for any `n_jobs` and after any number of interruptions.

    Args:
        root: keys in the shards are paths from here.
        shard_images: images of a shard.
        shuffle: seed of a random order; None keeps that of the source. Shards are read a few at a time, so images that
            lie sorted by class should be shuffled.

    Raises:
        InputError: `outdir` holds shards of other images or settings.
    """
    if shard_images < 1:
        raise InputError(f"--shard-images: expected 1 or more, got {shard_images}")
    contents = list(_contents(source, root, shard_images, shuffle))
    provenance = Provenance(outdir, ".shards")
    digest = hashlib.sha256(json.dumps([source.labels, *map(asdict, contents)]).encode()).hexdigest()
    provenance.check({"images": digest}, what="shards", remedy="write to another folder or empty this one")
    provenance.begin({"images": digest})
    sizes = {file.name: file.stat().st_size for file in outdir.glob("*.tar")}
    written = {name for name, shard in provenance.done.items() if sizes.get(name) == shard["bytes"]}
    left = [one for one in contents if one.name not in written]
    work = partial(_write_one, source=source, outdir=outdir)
    for shard in tqdm(map_in_processes(work, left, n_jobs, name_of=attrgetter("name")), total=len(left), unit="shard"):
        provenance.add(shard.name, asdict(shard))
    shards = [Shard.of(provenance.done[one.name]) for one in contents]
    write_index(outdir / INDEX, shards)
    return shards


def _contents(source: ImageSource, root: Path, shard_images: int, shuffle: int | None) -> Iterator[ShardContent]:
    order = np.arange(len(source)) if shuffle is None else np.random.RandomState(shuffle).permutation(len(source))
    keys = _keys([source.name(index) for index in range(len(source))], root)
    for number, first in enumerate(range(0, len(order), shard_images)):
        images = tuple(order[first : first + shard_images].tolist())
        yield ShardContent(f"shard-{number:06d}.tar", images, tuple(keys[index] for index in images))


def _keys(names: list[str], root: Path) -> list[str]:
    """A key of its own for every image. WebDataset cuts at the first dot, so no key may have any."""
    keys, used = [], set()
    for name in names:
        relative = os.path.relpath(name, root).replace(os.sep, "/")
        wanted = key = os.path.splitext(relative)[0].replace("../", "").replace(".", "_")
        number = 1
        while key in used:
            number += 1
            key = f"{wanted}__{number}"
        used.add(key)
        keys.append(key)
    return keys


def _write_one(content: ShardContent, *, source: ImageSource, outdir: Path) -> Shard:
    with whole(outdir / content.name) as part:
        with part.open("wb") as file, webdataset.TarWriter(file, user="", group="", mode=0o644, mtime=0) as tar:
            for index, key in zip(content.images, content.keys, strict=True):
                kind = os.path.splitext(source.name(index))[1].lower().lstrip(".")
                labels = {f"{name}.png": source.read_label(index, name) for name in source.labels}
                tar.write({"__key__": key, kind: source.read(index), **labels})
        with part.open("rb") as written:
            return describe(content.name, written)
