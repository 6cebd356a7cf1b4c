"""What preparing a data set consists of, and which steps have been taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saicinpainting.data.preparation.extraction import extract
from saicinpainting.io.download import Checksum, digest_of, fetch, require_space, size_at
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

Say = Callable[[str], None]


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


class Steps:
    """Steps that are taken once. What has been done is written down in `root/.prepared.json`.

    A step is done if it was taken with the same recipe; with another one it is an error, because files of two recipes
    would be mixed.
    """

    def __init__(self, root: Path, *, say: Say = print) -> None:
        self.root, self.say = root, say
        self._file = root / ".prepared.json"

    def take(self, name: str, recipe: Mapping[str, Any], work: Callable[[], str]) -> None:
        """Do `work`, which returns what has been made, unless it was done before."""
        done = self._read()
        if name in done:
            if done[name]["recipe"] != json.loads(json.dumps(recipe)):
                raise InputError(
                    f"{self.root}: {name} was made with other settings ({done[name]['recipe']}, now {dict(recipe)}); "
                    "remove it and its entry in .prepared.json, or use another folder"
                )
            self.say(f"{name}: done before ({done[name]['made']})")
            return
        self.say(f"{name}: begins")
        made = work()
        self._write({**self._read(), name: {"recipe": recipe, "made": made}})
        self.say(f"{name}: {made}")

    def unpack(self, archive: Archive, folder: str, *, keep: bool) -> None:
        """Download `archive` and unpack it into `root/folder`."""
        checksum = str(archive.checksum) if archive.checksum else None
        self.take(
            folder, {"archive": archive.name, "checksum": checksum}, lambda: self._unpack(archive, folder, keep=keep)
        )

    def unpack_file(self, path: Path, folder: str) -> None:
        """Unpack an archive of the user's own, which stays where it is, into `root/folder`."""
        recipe = {"archive": path.name, "bytes": path.stat().st_size}
        self.take(folder, recipe, lambda: f"{self._extract(path, folder)} files from {path}")

    def _unpack(self, archive: Archive, folder: str, *, keep: bool) -> str:
        path, part = self.root / archive.name, self.root / f"{archive.name}.part"
        verified = self.root / f".{archive.name}.verified"
        if not path.is_file():
            come = part.stat().st_size if part.exists() else 0
            size = size_at(archive.address) or archive.size
            require_space(self.root, 2 * size - come, what=f"{archive.name} with its files")
            fetch(archive.address, path, what=archive.name, checksum=archive.checksum)
            verified.touch()
        elif archive.checksum is not None and not verified.is_file():
            self.say(f"{path}: checking")
            found = digest_of(path, archive.checksum.algorithm)
            if found != archive.checksum.hexadecimal:
                raise InputError(f"{path}: expected {archive.checksum}, found {found}; remove the file and start again")
            verified.touch()
        count = self._extract(path, folder)
        if not keep:
            path.unlink()
        verified.unlink(missing_ok=True)
        return f"{count} files from {archive.name}"

    def _extract(self, path: Path, folder: str) -> int:
        count = extract(path, self.root / folder)
        if not count:
            raise InputError(f"{path} holds no file; it is not the right archive")
        return count

    def _read(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{self._file} is damaged ({error}); remove it, finished steps are then repeated"
            ) from error

    def _write(self, done: Mapping[str, Any]) -> None:
        write_whole(self._file, json.dumps(done, indent=1) + "\n")


def read_checksums(path: Path | None) -> dict[str, Checksum]:
    """A file as `md5sum` and `sha256sum` write it: checksums by the files' names."""
    if path is None:
        return {}
    sums = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--checksums: cannot read {path}: {error}") from error
    for line in filter(str.strip, lines):
        digest, _, name = line.partition(" ")
        algorithm = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(digest))
        if algorithm is None or not name.strip():
            raise InputError(f"--checksums: {path}: expected lines as md5sum writes them, got {line!r}")
        sums[Path(name.strip().lstrip("*")).name] = Checksum(algorithm, digest.lower())
    return sums


def write_location(path: Path, *, data: Path, results: Path) -> str:
    """The location config of a data set; returns its name. A file with other content is not written over.

    data: the folder with train/, val/ and so on; results: the folder for runs and logs.
    """
    text = check_location(path, data=data, results=results)
    write_whole(path, text)
    return path.stem


def check_location(path: Path, *, data: Path, results: Path) -> str:
    """What `write_location` would write; it can be asked before days of work whether the place is free."""
    text = (
        f"# Written by the preparation of {data.name}; train with location={path.stem}.\n"
        f"data_root_dir: {json.dumps(str(data.resolve()))}\n"
        f"out_root_dir: {json.dumps(str(results.resolve() / 'experiments'))}\n"
        f"tb_dir: {json.dumps(str(results.resolve() / 'tb_logs'))}\n"
        f"pretrained_models: {json.dumps(str(results.resolve()))}  # unused, kept for old configs\n"
    )
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} exists and says something else; choose another --location, or remove it")
    if not path.parent.is_dir():
        raise InputError(f"--location-dir: no folder {path.parent}; make it or choose another")
    return text
