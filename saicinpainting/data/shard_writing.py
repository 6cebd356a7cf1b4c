"""Writing shards from folders of images; what a kill interrupts, the next start goes on with."""

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
from saicinpainting.io.files import map_in_processes, whole, write_whole
from saicinpainting.utils import InputError

DONE = ".done.json"


@dataclass(frozen=True)
class Plan:
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
    plans = list(_plans(source, root, shard_images, shuffle))
    _check_same(outdir, plans, source.companions)
    work = partial(_write_one, source=source, outdir=outdir)
    shards = list(
        tqdm(map_in_processes(work, plans, n_jobs, name_of=attrgetter("name")), total=len(plans), unit="shard")
    )
    write_index(outdir / INDEX, shards)
    for plan in plans:
        (outdir / f"{plan.name}{DONE}").unlink(missing_ok=True)
    return shards


def _plans(source: ImageSource, root: Path, shard_images: int, shuffle: int | None) -> Iterator[Plan]:
    order = np.arange(len(source)) if shuffle is None else np.random.RandomState(shuffle).permutation(len(source))
    keys = _keys([source.name(index) for index in range(len(source))], root)
    for number, first in enumerate(range(0, len(order), shard_images)):
        images = tuple(order[first : first + shard_images].tolist())
        yield Plan(f"shard-{number:06d}.tar", images, tuple(keys[index] for index in images))


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


def _check_same(outdir: Path, plans: list[Plan], companions: tuple[str, ...]) -> None:
    """The plan is kept in the folder, so that a start with other images or settings does not mix two sets."""
    digest = hashlib.sha256(json.dumps([companions, *map(asdict, plans)]).encode()).hexdigest()
    outdir.mkdir(parents=True, exist_ok=True)
    file = outdir / ".plan"
    if file.is_file() and file.read_text() != digest:
        raise InputError(
            f"{outdir} holds shards of other images or settings; write to another folder or empty this one"
        )
    if not file.is_file() and any(outdir.glob("*.tar")):
        raise InputError(f"{outdir} holds tar files of something else; write to another folder")
    write_whole(file, digest)


def _write_one(plan: Plan, *, source: ImageSource, outdir: Path) -> Shard:
    path, done = outdir / plan.name, outdir / f"{plan.name}{DONE}"
    known = _known(path, done, outdir)
    if known is not None:
        return known
    with whole(path) as part:
        shard = _write_tar(part, plan, source)
    write_whole(done, json.dumps(asdict(shard)))
    return shard


def _write_tar(path: Path, plan: Plan, source: ImageSource) -> Shard:
    with path.open("wb") as file, webdataset.TarWriter(file, user="", group="", mode=0o644, mtime=0) as tar:
        for index, key in zip(plan.images, plan.keys, strict=True):
            kind = os.path.splitext(source.name(index))[1].lower().lstrip(".")
            labels = {f"{name}.png": source.read_companion(index, name) for name in source.companions}
            tar.write({"__key__": key, kind: source.read(index), **labels})
    with path.open("rb") as written:
        return describe(plan.name, written)


def _known(path: Path, done: Path, outdir: Path) -> Shard | None:
    """What is known of a shard that an earlier start has finished."""
    if not path.is_file():
        return None
    try:
        found = [json.loads(done.read_text())]
    except (OSError, ValueError):
        try:
            found = json.loads((outdir / INDEX).read_text())["shards"]
        except (OSError, ValueError, KeyError):
            return None
    for shard in found:
        if shard["name"] == path.name and shard["bytes"] == path.stat().st_size:
            return Shard.of(shard)
    return None
