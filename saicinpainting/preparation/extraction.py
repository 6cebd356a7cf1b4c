"""Unpacking archives of images: safe against hostile names, and gone on with after an interruption."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from saicinpainting.utils import InputError

Opened = Iterator["Member"]


class Member(NamedTuple):
    """A file in an archive; `open` gives its content."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def extract(archive: Path, folder: Path, *, strip: int = 1) -> int:
    """Unpack the images of a tar or zip archive into `folder`.

    A file that is there in its full size is not written again, so the same call goes on where another one ended. Files
    appear when they are whole. Links, devices and hidden files are left out.

    Args:
        strip: how many leading folders of the names to leave out; names with fewer lose all of them.

    Returns:
        How many images the archive holds.

    Raises:
        InputError: the archive is broken, or has a name that leads out of `folder`.
    """
    count = 0
    with _members(archive) as members, tqdm(desc=f"unpacking {archive.name}", unit="file") as progress:
        for member in _reading(members, archive):
            target = folder / _place(member.name, strip, archive)
            if not target.is_file() or target.stat().st_size != member.size:
                _write(member, target)
            count += 1
            progress.update()
    return count


def _reading(members: Opened, archive: Path) -> Opened:
    try:
        yield from members
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive} is no whole archive: {error}; remove it, and it is downloaded again") from error


def _place(name: str, strip: int, archive: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise InputError(f"{archive}: its file {name!r} would lie outside of the folder; this is not the right archive")
    parts = [part for part in path.parts if part != "."]
    return Path(*parts[min(strip, len(parts) - 1) :])


def _write(member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with member.open() as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    os.replace(part, target)


@contextmanager
def _members(archive: Path) -> Iterator[Opened]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield _of_zip(packed)
        else:
            with tarfile.open(archive) as tar:
                yield _of_tar(tar)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive} is no whole archive: {error}; remove it, and it is downloaded again") from error


def _of_tar(tar: tarfile.TarFile) -> Opened:
    for info in tar:
        if info.isfile() and not _hidden(info.name):
            yield Member(info.name, info.size, partial(_content, tar, info))
        # All would be kept, gigabytes for millions of files; only links need those before them.
        tar.members.clear()  # type: ignore[attr-defined]


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # it is a file
    return file


def _of_zip(packed: zipfile.ZipFile) -> Opened:
    for info in packed.infolist():
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if not info.is_dir() and not link and not _hidden(info.filename):
            yield Member(info.filename, info.file_size, partial(packed.open, info))


def _hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".") or name.startswith("__MACOSX/")
