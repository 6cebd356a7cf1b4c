"""Archives read strictly: what is cut off or damaged is an error, where Python's own readers would just end."""

from __future__ import annotations

import bz2
import errno
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, cast

from saicinpainting.io.budgets import BudgetError

BLOCK = 512
MOST_ZEROS = 1 << 20
"""At the end of a tar file: programs fill up records, of 10 kB mostly."""
PACKED, UNPACKED = 1 << 16, 1 << 20
"""Bytes that are read and made at once: bzip2 makes a million times as many of some."""
MOST_FOR_XZ = 1 << 28
"""Bytes of memory: an xz file says how much it needs."""
EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
LONGEST_EXTENSION = 1 << 16
"""Bytes of what a tar file puts before a member: a long name, its attributes."""
LONGEST_NAME = 255
"""Bytes of a part of a path, as file systems take them."""
MOST_IN_DIRECTORY = 1 << 25
"""Bytes of a zip file's list of its files, some 250,000 images; Python takes ten times as many for it."""
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # a zip file that says it is encrypted
)


@contextmanager
def damage_as(make_error: Callable[[str], Exception]) -> Iterator[None]:
    """What reading a damaged archive raises becomes `make_error(what is wrong)`; the disk's errors stay as they are."""
    try:
        yield
    except DAMAGE as error:
        raise make_error(str(error)) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise make_error("a file and a folder in it have the same name") from error
    except OSError as error:
        # bz2 has no error of its own; EINVAL: a zip file that says something lies before its beginning.
        if error.errno not in (None, errno.EINVAL) or error.filename is not None:
            raise
        raise make_error(str(error)) from error


def check_name(name: str) -> None:
    """A ValueError for a name of an archive's member that no file can have, or that leads out of a folder."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts or "\\" in name:
        raise ValueError(f"its file {name[:200]!r} would lie outside of the folder")
    if not parts:
        raise ValueError(f"its file {name[:200]!r} has no name")
    if "\0" in name or len(os.fsencode(name)) > 1000 or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise ValueError(f"its file {name[:50]!r}… has a name that no file can have")


# ---- tar -----------------------------------------------------------------------------------------------------------


SPARSE = "is stored as a sparse file; pack it as an ordinary one"
"""A few bytes may say that they are a terabyte of zeros."""


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Only a block of zeros ends an archive; `tarfile` takes any block for its end that is no header."""
        try:
            header = super().frombuf(buf, encoding, errors)
            if header.type == tarfile.GNUTYPE_SPARSE:
                raise tarfile.ReadError(f"{header.name} {SPARSE}")
            if header.type not in EXTENSIONS or header.size <= LONGEST_EXTENSION:
                return header
            raise tarfile.ReadError(f"{header.size} bytes of attributes")
        except tarfile.HeaderError as error:
            if len(buf) == BLOCK and not any(buf):
                raise
            raise tarfile.ReadError(f"{error} where a file should begin or the archive end") from error

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Instead of reading a list of parts that may never end."""
        raise tarfile.ReadError(f"{self.name} {SPARSE}")


def open_tar(file: IO[bytes], *, stream: bool) -> tarfile.TarFile:
    """A tar file, not compressed; `stream`: read from the beginning to the end, not by position."""
    return tarfile.open(fileobj=file, mode="r|" if stream else "r:", tarinfo=_Header)


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """What a tar file that `open_tar` opened holds.

    Raises:
        tarfile.TarError: it is damaged or cut off, or something follows its end.
    """
    for info in tar:
        if info.size < 0:
            raise tarfile.ReadError(f"{info.name} has the size {info.size}")
        if info.sparse is not None:
            raise tarfile.ReadError(f"{info.name} {SPARSE}")
        yield info
        # All would be kept, gigabytes for millions of files; only links need those before them.
        tar.members.clear()  # type: ignore[attr-defined]
    following, file = 0, cast(IO[bytes], tar.fileobj)
    while rest := file.read(1 << 20):
        following += len(rest)
        if rest.count(0) != len(rest):
            raise tarfile.ReadError("something follows its end, or a part of it was lost")
        if following > MOST_ZEROS:
            raise tarfile.ReadError(f"it ends in more than {MOST_ZEROS} zeros, as files do whose end was lost")
    if following < BLOCK:  # of the two blocks of zeros at the end, one is read
        raise tarfile.ReadError("it is cut off")


DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(memlimit=MOST_FOR_XZ),
}
"""By the first bytes of a file: gzip, bzip2, xz."""


class Decompressed:
    """What a compressed file holds, checked to its last byte; `make`: one of `DECOMPRESSORS`.

    The readers of gzip check nothing behind what they are asked for, those of bz2 and lzma pass over what follows.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make = file, make
        self._decompressor, self._left, self._holds_more = make(), b"", False

    def read(self, size: int = -1) -> bytes:
        """Some bytes, however many; none at the end. EOFError if the file is cut off."""
        while (packed := b"" if self._holds_more else self._left or self._file.read(PACKED)) or self._holds_more:
            if self._decompressor.eof:
                packed = packed.lstrip(b"\0")  # padding; another part may follow
                if not packed:
                    self._left = b""
                    continue
                self._decompressor = self._make()
            data: bytes = self._decompressor.decompress(packed, UNPACKED)
            eof = self._decompressor.eof
            # What was not unpacked yet, zlib gives back, and the others keep.
            self._left = self._decompressor.unused_data if eof else getattr(self._decompressor, "unconsumed_tail", b"")
            self._holds_more = not eof and not getattr(self._decompressor, "needs_input", True)
            if data:
                return data
        if not self._decompressor.eof:
            raise EOFError("it is cut off")
        return b""


# ---- zip -----------------------------------------------------------------------------------------------------------

ZIP_BEGINS = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_BYTES = b"PK\x05\x06", 22
_MANY = 0xFFFF


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """A zip file, unless its list of files is longer than any that is read.

    Raises:
        zipfile.BadZipFile, ValueError and others of `DAMAGE`: it is none, or damaged.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[5] > MOST_IN_DIRECTORY:
        raise BudgetError(f"its list of files has {end[5]} bytes, at most {MOST_IN_DIRECTORY} are read; use a tar file")
    return zipfile.ZipFile(file)


def zip_members(packed: zipfile.ZipFile, file: IO[bytes]) -> list[zipfile.ZipInfo]:
    """What a zip file holds; `packed` is opened from `file`. `ZipFile` compares contents with their checksums itself.

    Raises:
        zipfile.BadZipFile: something follows its end, or entries are missing.
    """
    file.seek(-(_END_BYTES + len(packed.comment)), os.SEEK_END)
    end, members = file.read(_END_BYTES), packed.infolist()
    if not end.startswith(_END):
        raise zipfile.BadZipFile("something follows its end")
    if int.from_bytes(end[20:22], "little") != len(packed.comment):
        raise zipfile.BadZipFile("it is cut off")
    count = int.from_bytes(end[10:12], "little")  # larger numbers stand elsewhere
    if count not in (_MANY, len(members) & _MANY):
        raise zipfile.BadZipFile(f"it lists {len(members)} files, of which its end says {count}")
    return members
