"""Unpack archives of images: safe against hostile names, resumed after an interruption."""

from __future__ import annotations

import io
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
    BLOCK,
    DECOMPRESSORS,
    ZIP_BEGINS,
    Decompressed,
    check_name,
    damage_as,
    open_tar,
    open_zip,
    tar_members,
    zip_members,
)
from saicinpainting.io.budgets import BudgetError, check_bytes
from saicinpainting.io.download import require_space
from saicinpainting.io.files import whole
from saicinpainting.io.folders import IMAGE_SUFFIXES
from saicinpainting.io.pixels import open_image
from saicinpainting.utils import InputError

ANEW = "copy it anew; one that was downloaded here: remove it, and it is downloaded again"


HEAD = 1 << 16
"""Bytes of an image file in which its header stands."""
RESERVE = 1 << 30
"""Bytes of the disk that are left for others."""


class Member(NamedTuple):
    """A file in an archive; `open` gives its content, and is None for what is left out."""

    name: str
    size: int
    open: Callable[[], Any] | None


def extract(archive: Path, folder: Path, *, strip: int | None = 1) -> int:
    """Unpack the images of a tar or zip archive into `folder`.

    A file that is there in its full size is not written again, so the same call resumes an interrupted one. Files
    appear when they are whole. Links, devices and hidden files are left out.

    Args:
        strip: how many leading folders of the names to leave out; names with fewer lose all of them. None: the one
            that all images are in, if there is one, for which all names are read first.

    Returns:
        How many images the archive holds.

    Raises:
        InputError: the archive is damaged or cut off, which may show at its end alone, or has a name that leads out of
            `folder`. What came before that is whole and stays.
    """
    count, room = 0, _Room(archive, folder)
    with (
        damage_as(lambda what: InputError(f"{archive} is no whole archive: {what}; {ANEW}")),
        tqdm(desc=f"unpacking {archive.name}", unit="file") as progress,
        archive.open("rb") as file,
    ):
        if strip is None:
            strip = int(len({_first_folder(member) for member in _members(file)} - {None}) == 1)
            file.seek(0)
        for member in _members(file):
            if member.open is None:
                room.take(member.size)
                continue
            target = folder / _place(member.name, strip, archive)
            if not target.is_file() or target.stat().st_size != member.size:
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, whole(target) as part, part.open("wb") as copy:
                    head = source.read(HEAD)
                    room.take(member.size, head)
                    copy.write(head)
                    shutil.copyfileobj(source, copy, 1 << 20)
            count += 1
            progress.update()
    return count


class _Room:
    """What the files of an archive may take.

    As much as in any file, and beyond that what images have by their headers: those of one colour, as many masks are,
    become a thousandth of it in an archive.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self._present, self._folder, self._claimed = archive.stat().st_size, folder, 0

    def take(self, size: int, head: bytes = b"") -> None:
        """A `BudgetError` if the next file, of `size` bytes that begin with `head`, is too much."""
        self._claimed += BLOCK + size  # the header counts: there may be millions that are nothing else
        try:
            check_bytes(self._claimed, self._present)
        except BudgetError:
            self._claimed -= BLOCK + min(size, _bytes_by_header(head))
            check_bytes(self._claimed, self._present)
            require_space(self._folder, size + RESERVE, what="an archive that becomes many times as large")


def _bytes_by_header(head: bytes) -> int:
    """At most, of an image file that begins so; 0 if it is none."""
    try:
        with open_image(io.BytesIO(head)) as image:
            return HEAD + 8 * image.width * image.height
    except Exception:  # decoders raise many kinds of errors on broken files
        return 0


def _place(name: str, strip: int, archive: Path) -> Path:
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"{archive}: {error}; this is not the right archive") from error
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    return Path(*parts[min(strip, len(parts) - 1) :])


def _first_folder(member: Member) -> str | None:
    """Of an image, `` for one outside all folders; None for another file."""
    if member.open is None or not member.name.lower().endswith(IMAGE_SUFFIXES):
        return None
    parts = PurePosixPath(member.name).parts
    return parts[0] if len(parts) > 1 else ""


def _members(file: IO[bytes]) -> Iterator[Member]:
    begins = file.read(8)
    file.seek(0)
    if begins.startswith(ZIP_BEGINS):
        with open_zip(file) as packed:
            yield from _of_zip(packed, file)
        return
    make = next((make for magic, make in DECOMPRESSORS.items() if begins.startswith(magic)), None)
    source = cast(IO[bytes], Decompressed(file, make)) if make else file
    with open_tar(source, stream=make is not None) as tar:
        yield from _of_tar(tar)


def _of_tar(tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar_members(tar):
        wanted = info.isfile() and not _hidden(info.name)
        yield Member(info.name, info.size, partial(tar.extractfile, info) if wanted else None)


def _of_zip(packed: zipfile.ZipFile, file: IO[bytes]) -> Iterator[Member]:
    for info in zip_members(packed, file):
        link = stat.S_ISLNK(info.external_attr >> 16)
        wanted = not info.is_dir() and not link and not _hidden(info.filename)
        yield Member(info.filename, info.file_size, partial(packed.open, info) if wanted else None)


def _hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".") or name.startswith("__MACOSX/")
