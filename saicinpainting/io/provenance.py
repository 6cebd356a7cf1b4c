"""Provenance: what the results in a folder were made of, so that a start resumes only what was made of the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from saicinpainting.io.download import digest_of_input
from saicinpainting.io.files import append, part_of, write_whole
from saicinpainting.utils import InputError

LATER = {"config_sha256", "photographs_sha256"}
"""Settings that are not compared with folders of earlier versions, which did not note them."""


class Provenance:
    """Two files beside results: NAME.json has the settings that decide all of them, NAME.jsonl a line for each result.

    Several processes may `add` to one folder at once, each to a file of its own, NAME.RANK.jsonl; `begin` joins them.

    Args:
        folder: where the results are; it need not exist.
        name: of the files, such as `.predicted`.
        rank: of this process; that of rank 0 is the one that begins.

    Attributes:
        settings: what the results were made of, as JSON has it; None: nothing was begun here.
        done: what is known of each result by its key. Half a line, which a kill leaves, is dropped.

    Raises:
        InputError: the files are damaged.
    """

    def __init__(self, folder: Path, name: str, rank: int = 0) -> None:
        self.folder = folder
        self._settings_file, self._lines_file = folder / f"{name}.json", folder / f"{name}.jsonl"
        self._others = sorted(folder.glob(f"{name}.*.jsonl"))
        self._own_file = folder / f"{name}.{rank}.jsonl" if rank else self._lines_file
        try:
            self.settings: dict[str, Any] | None = None
            if self._settings_file.is_file():
                self.settings = {**json.loads(self._settings_file.read_text(encoding="utf-8"))}
            self.done: dict[str, Any] = {}
            for file in (self._lines_file, *self._others):
                lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else [""]
                self.done |= dict(json.loads(line) for line in lines[:-1])
        except (ValueError, TypeError) as error:
            raise InputError(f"{folder}: {name}.json or .jsonl is damaged ({error}); use another folder") from error

    def difference(self, settings: Mapping[str, Any]) -> str | None:
        """`seed: 0, now 1`: the first setting that differs; None: none does, or nothing was begun."""
        if self.settings is None:
            return None
        wanted = json.loads(json.dumps(settings))
        for key in LATER - self.settings.keys():
            wanted.pop(key, None)
        return _difference(self.settings, wanted, "")

    def check(self, settings: Mapping[str, Any], *, what: str, remedy: str) -> None:
        """Check that results of `settings` may be added to the folder.

        Raises:
            InputError: it holds `what` of other settings, or files of unknown origin; `remedy` says what to do.
        """
        files = (self._settings_file, self._lines_file, *self._others)
        own = {part for file in files for part in (file, part_of(file))}
        if self.settings is None and self.folder.is_dir() and not own.issuperset(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no {what} begun here; {remedy}")
        other = self.difference(settings)
        if other:
            raise InputError(f"{self.folder} holds {what} made of something else ({other}); {remedy}")

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write both files: `settings`, and what is in `done`."""
        write_whole(self._lines_file, "".join(_line(*item) for item in self.done.items()))
        for file in self._others:
            file.unlink()
        write_whole(self._settings_file, json.dumps(settings, indent=1))

    def add(self, key: str, value: Any) -> None:
        """Note a result, on disk too."""
        self.done[key] = value
        append(self._own_file, _line(key, value))


def _line(key: str, value: Any) -> str:
    return json.dumps([key, value]) + "\n"


def _difference(old: Any, new: Any, where: str) -> str | None:
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_difference(old.get(key), new.get(key), f"{where}.{key}") for key in {**new, **old})
        return next(filter(None, found), None)
    return f"{where.removeprefix('.')}: {old}, now {new}"


def digest_of_files(files: Sequence[str], root: str | os.PathLike[str]) -> str:
    """SHA-256 of the names, as paths from `root`, and the contents of `files`.

    Contents, not times: what was copied, or made again, is the same.
    """
    digest = hashlib.sha256()
    for file in tqdm(sorted(set(files)), desc="check", unit="file", leave=False):
        digest.update(os.fsencode(f"{Path(os.path.relpath(file, root)).as_posix()} {digest_of_input(file)}\n"))
    return digest.hexdigest()
