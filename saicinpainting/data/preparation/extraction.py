"""Unpack archives of images: safe against hostile names, resumed after an interruption."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from tqdm import tqdm

from saicinpainting.io.archives import (
    DECOMPRESSORS,
    ZIP_BEGINS,
    Decompressed,
    check_name,
    damage_as,
    open_tar,
    tar_members,
    zip_members,
)
from saicinpainting.io.budgets import check_bytes
from saicinpainting.io.files import whole
from saicinpainting.utils import InputError

ANEW = "copy it anew; one that was downloaded here: remove it, and it is downloaded again"


class Member(NamedTuple):
    """A file in an archive; `open` gives its content."""

    name: str
    size: int
    open: Callable[[], Any]


def extract(archive: Path, folder: Path, *, strip: int = 1) -> int:
    """Unpack the images of a tar or zip archive into `folder`.

    A file that is there in its full size is not written again, so the same call resumes an interrupted one. Files
    appear when they are whole. Links, devices and hidden files are left out.

    Args:
        strip: how many leading folders of the names to leave out; names with fewer lose all of them.

    Returns:
        How many images the archive holds.

    Raises:
        InputError: the archive is damaged or cut off, which may show at its end alone, or has a name that leads out of
            `folder`. What came before that is whole and stays.
    """
    count, claimed = 0, 0
    with (
        damage_as(lambda what: InputError(f"{archive} is no whole archive: {what}; {ANEW}")),
        tqdm(desc=f"unpacking {archive.name}", unit="file") as progress,
        archive.open("rb") as file,
    ):
        for member in _members(file):
            target = folder / _place(member.name, strip, archive)
            claimed += member.size
            check_bytes(claimed, archive.stat().st_size)
            if not target.is_file() or target.stat().st_size != member.size:
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, whole(target) as part, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            count += 1
            progress.update()
    return count


def _place(name: str, strip: int, archive: Path) -> Path:
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"{archive}: {error}; this is not the right archive") from error
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    return Path(*parts[min(strip, len(parts) - 1) :])


def _members(file: IO[bytes]) -> Iterator[Member]:
    begins = file.read(8)
    file.seek(0)
    if begins.startswith(ZIP_BEGINS):
        with zipfile.ZipFile(file) as packed:
            yield from _of_zip(packed, file)
        return
    make = next((make for magic, make in DECOMPRESSORS.items() if begins.startswith(magic)), None)
    source = cast(IO[bytes], Decompressed(file, make)) if make else file
    with open_tar(source, stream=make is not None) as tar:
        yield from _of_tar(tar)


def _of_tar(tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar_members(tar):
        if info.isfile() and not _hidden(info.name):
            yield Member(info.name, info.size, partial(tar.extractfile, info))
        # All would be kept, gigabytes for millions of files; only links need those before them.
        tar.members.clear()  # type: ignore[attr-defined]


def _of_zip(packed: zipfile.ZipFile, file: IO[bytes]) -> Iterator[Member]:
    for info in zip_members(packed, file):
        link = stat.S_ISLNK(info.external_attr >> 16)
        if not info.is_dir() and not link and not _hidden(info.filename):
            yield Member(info.filename, info.file_size, partial(packed.open, info))


def _hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".") or name.startswith("__MACOSX/")
