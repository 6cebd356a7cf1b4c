"""Preparing a data set step by step: download, unpack, draw evaluation sets; each step is taken once."""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saicinpainting.data.preparation.extraction import extract
from saicinpainting.io.download import Checksum, digest_of, fetch, require_space, size_at
from saicinpainting.io.files import part_of
from saicinpainting.io.provenance import Provenance
from saicinpainting.masks.mask_sets import RECIPES, make_mask_set, read_recipe
from saicinpainting.utils import InputError


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    size: bytes, roughly, for what is said of disk needs; checksum: None if none is published.
    """

    name: str
    address: str
    size: int
    checksum: Checksum | None = None

    def at(self, address: str | None, checksums: Mapping[str, Checksum]) -> Archive:
        """The same archive on a mirror: the folder at `address`, with checksums of its own."""
        place, mark, key = (self.address.rpartition("/")[0] if address is None else address).partition("?")
        there = f"{place.rstrip('/')}/{self.name}{mark}{key}"
        return Archive(self.name, there, self.size, checksums.get(self.name, self.checksum))


@dataclass(kw_only=True)
class Preparation(ABC):
    """A data set to be made in `root`; `root/.prepared.jsonl` has the steps that were taken.

    Args:
        eval_sets: configs of configs/data_gen.
        seed: of all draws.
        keep_archives: do not delete what was downloaded and unpacked.
        n_jobs: processes that draw the evaluation sets.
    """

    root: Path
    eval_sets: Sequence[str] = ()
    seed: int = 0
    keep_archives: bool = False
    n_jobs: int = 1
    _taken: Provenance = field(init=False, repr=False)

    @abstractmethod
    def describe(self) -> str:
        """What will be downloaded and made, with sizes."""

    @abstractmethod
    def take_steps(self) -> None:
        """All steps, in their order."""

    def make(self) -> None:
        """Take the steps that were not taken yet."""
        self._taken = Provenance(self.root, ".prepared")
        self._taken.begin({})
        self.take_steps()

    def take(self, name: str, settings: Mapping[str, Any], work: Callable[[], str]) -> None:
        """Do `work`, which returns what has been made, unless it was done before.

        Raises:
            InputError: it was done with other settings; files of both would be mixed.
        """
        if name not in self._taken.done:
            print(f"{name}: begins")
            self._taken.add(name, [settings, made := work()])
            print(f"{name}: {made}")
            return
        before, made = self._taken.done[name]
        if before != settings:
            raise InputError(
                f"{self.root}: {name} was made with other settings ({before}, now {dict(settings)}); "
                "remove it and its line in .prepared.jsonl, or use another folder"
            )
        print(f"{name}: done before ({made})")

    def unpack(self, archive: Archive, folder: str) -> None:
        """Download `archive` and unpack it into `root/folder`."""
        checksum = str(archive.checksum) if archive.checksum else None

        def work() -> str:
            path = self._download(archive, checksum)
            count = self._extract(path, folder)
            if not self.keep_archives:
                path.unlink()
            return f"{count} files from {archive.name}"

        self.take(folder, {"archive": archive.name, "checksum": checksum}, work)

    def unpack_file(self, path: Path, folder: str) -> None:
        """Unpack an archive of the user's own, which stays where it is, into `root/folder`."""
        settings = {"archive": path.name, "bytes": path.stat().st_size}
        self.take(folder, settings, lambda: f"{self._extract(path, folder)} files from {path}")

    def make_set(self, folder: str, *, recipe: str, source: Path, names: Sequence[str]) -> None:
        """Draw an evaluation set in `root/folder` from images of `source`; recipe: a config of configs/data_gen."""

        def work() -> str:
            config = read_recipe(RECIPES / f"{recipe}.yaml")
            drawn = make_mask_set(config, source, self.root / folder, n_jobs=self.n_jobs, seed=self.seed, names=names)
            for reason in drawn.skipped:
                print(f"skipped {reason}")
            return str(drawn)

        chosen = f"{len(names)} images, {zlib.crc32(os.fsencode(' '.join(names))):08x}"
        self.take(folder, {"masks": recipe, "seed": self.seed, "images": chosen}, work)

    def _download(self, archive: Archive, checksum: str | None) -> Path:
        """The archive in `root`, where it may lie already; checked once."""
        path, part = self.root / archive.name, part_of(self.root / archive.name)
        if not path.is_file():
            come = part.stat().st_size if part.exists() else 0
            size = size_at(archive.address) or archive.size
            require_space(self.root, 2 * size - come, what=f"{archive.name} with its files")
            fetch(archive.address, path, what=archive.name, checksum=archive.checksum)
        elif archive.checksum is not None and self._taken.done.get(archive.name) != checksum:
            print(f"{path}: checking")
            found = digest_of(path, archive.checksum.algorithm)
            if found != archive.checksum.hexadecimal:
                raise InputError(f"{path}: expected {archive.checksum}, found {found}; remove the file and start again")
        self._taken.add(archive.name, checksum)
        return path

    def _extract(self, path: Path, folder: str) -> int:
        count = extract(path, self.root / folder)
        if not count:
            raise InputError(f"{path} holds no file; it is not the right archive")
        return count


def draw(names: Sequence[str], seed: int, *counts: int) -> list[list[str]]:
    """Disjoint random samples of these sizes, each in the order of `names`."""
    if sum(counts) > len(names):
        raise InputError(f"{sum(counts)} images are to be drawn, there are {len(names)}; ask for fewer")
    order = np.random.RandomState(seed).permutation(len(names))
    samples = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
    return [[names[i] for i in sorted(sample)] for sample in samples]
