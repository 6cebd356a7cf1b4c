"""Preparing a data set step by step: download, unpack, draw evaluation sets; each step is run once."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from saicinpainting.data.preparation.extraction import extract
from saicinpainting.io.connection import without_secrets
from saicinpainting.io.download import Checksum, digest_of, fetch, require_space, size_at
from saicinpainting.io.files import part_of
from saicinpainting.io.provenance import Provenance
from saicinpainting.masks.mask_sets import RECIPES, describe_images, make_mask_set, read_recipe
from saicinpainting.utils import InputError


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    Args:
        size: bytes, roughly; to check the room on the disk and to print it.
        checksum: None if none is published.
    """

    name: str
    address: str
    size: int
    checksum: Checksum | None = None

    def on_mirror(self, address: str | None, checksums: Mapping[str, Checksum]) -> Archive:
        """The archive of the same name in the folder at `address`, None: where it is published.

        checksums: by name, of archives that differ from the published ones.
        """
        checksum = checksums.get(self.name, self.checksum)
        if address is None:
            return replace(self, checksum=checksum)
        folder, mark, query = address.partition("?")  # a query, such as a token, belongs behind the file's name
        return replace(self, address=f"{folder.rstrip('/')}/{self.name}{mark}{query}", checksum=checksum)


@dataclass(kw_only=True)
class Preparation(ABC):
    """A data set to be made in `root`.

    `root/.prepared.jsonl` has a line for each step, by the name of the folder that it makes: its settings, and what it
    made (null until it is finished). Lines `archive:NAME` are checksums of downloads that were verified.

    Args:
        eval_sets: configs of configs/data_gen.
        seed: of all draws.
        keep_archives: do not delete archives after they are downloaded and unpacked.
        n_jobs: processes that draw the evaluation sets.
    """

    root: Path
    eval_sets: Sequence[str] = ()
    seed: int = 0
    keep_archives: bool = False
    n_jobs: int = 1
    _provenance: Provenance = field(init=False, repr=False)

    @abstractmethod
    def describe(self) -> str:
        """What will be downloaded and made, with sizes."""

    @abstractmethod
    def run_steps(self) -> None:
        """Run all steps, in their order."""

    def make(self) -> None:
        """Run the steps that are not finished."""
        self._provenance = Provenance(self.root, ".prepared")
        self._provenance.begin({})
        self.run_steps()
        self._provenance.begin({})  # without the lines that later ones replaced

    def run_once(self, folder: str, settings: Mapping[str, Any], work: Callable[[], str]) -> None:
        """Run the step that makes `root/folder`, unless it is finished.

        Args:
            settings: all that decides what is made; of types that JSON has.
            work: makes the folder, or resumes it; returns what has been made, for people.

        Raises:
            InputError: the folder was made, or begun, with other settings; files of both would be mixed.
        """
        settings = json.loads(json.dumps(settings))  # as it is read back
        before, made = self._provenance.done.get(folder, (settings, None))
        if before != settings and (made is not None or _has_files(self.root / folder)):
            raise InputError(
                f"{self.root}: {folder} was made with other settings ({before}, now {settings}); "
                "remove it and its line in .prepared.jsonl, or use another folder"
            )
        if made is not None:
            print(f"{folder}: done before ({made})")
            return
        print(f"{folder}: begins")
        self._provenance.add(folder, [settings, None])  # a start after a kill must know what it resumes
        made = work()
        self._provenance.add(folder, [settings, made])
        print(f"{folder}: {made}")

    def fetch_and_unpack(self, archive: Archive, folder: str, *, strip: int | None = 1) -> None:
        """Download `archive` and unpack it into `root/folder`; `strip` as in `extract`."""

        def work() -> str:
            path = self._download(archive)
            count = self._extract(path, folder, strip)
            if not self.keep_archives:
                path.unlink()
            return f"{count} files from {archive.name}"

        # The same archive may come from any mirror; without a checksum the address alone tells which it is.
        identity = (
            {"checksum": str(archive.checksum)} if archive.checksum else {"address": without_secrets(archive.address)}
        )
        self.run_once(folder, {"archive": archive.name, **identity}, work)

    def unpack_file(self, path: Path, folder: str) -> None:
        """Unpack an archive of the user's own, which stays where it is, into `root/folder`."""
        settings = {"archive": path.name, "bytes": path.stat().st_size}
        self.run_once(folder, settings, lambda: f"{self._extract(path, folder, None)} files from {path}")

    def make_set(self, folder: str, *, recipe: str, source: Path, names: Sequence[str]) -> None:
        """Draw an evaluation set in `root/folder` from images of `source`; recipe: a config of configs/data_gen."""

        def work() -> str:
            config = read_recipe(RECIPES / f"{recipe}.yaml")
            drawn = make_mask_set(config, source, self.root / folder, n_jobs=self.n_jobs, seed=self.seed, names=names)
            for reason in drawn.skipped:
                print(f"skipped {reason}")
            return str(drawn)

        images = describe_images(source, names, self.root / folder)
        self.run_once(folder, {"masks": recipe, "seed": self.seed, "images": images}, work)

    def _download(self, archive: Archive) -> Path:
        """The archive in `root`, where the user may have put it; its checksum is compared once."""
        path, part = self.root / archive.name, part_of(self.root / archive.name)
        key, checksum = f"archive:{archive.name}", str(archive.checksum) if archive.checksum else None
        if not path.is_file():
            fetched = part.stat().st_size if part.exists() else 0
            size = size_at(archive.address) or archive.size
            require_space(self.root, 2 * size - fetched, what=f"{archive.name} with its files")
            fetch(archive.address, path, what=archive.name, checksum=archive.checksum)
        elif archive.checksum is not None and self._provenance.done.get(key) != checksum:
            print(f"{path}: checking")
            found = digest_of(path, archive.checksum.algorithm)
            if found != archive.checksum.hexadecimal:
                raise InputError(f"{path}: expected {archive.checksum}, found {found}; remove the file and start again")
        self._provenance.add(key, checksum)
        return path

    def _extract(self, path: Path, folder: str, strip: int | None) -> int:
        count = extract(path, self.root / folder, strip=strip)
        if not count:
            raise InputError(f"{path} holds no file; it is not the right archive")
        return count


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def draw(names: Sequence[str], seed: int, *counts: int) -> list[list[str]]:
    """Disjoint random samples of these sizes, each in the order of `names`."""
    if sum(counts) > len(names):
        raise InputError(f"{sum(counts)} images are to be drawn, there are {len(names)}; ask for fewer")
    order = np.random.RandomState(seed).permutation(len(names))
    samples = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
    return [[names[i] for i in sorted(sample)] for sample in samples]
