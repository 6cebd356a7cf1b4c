"""Fetching large files: a cut connection, a kill or a full disk loses nothing that has come."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5
PATIENT_ATTEMPTS = 10
"""Four minutes of connections that are refused at once: what a server needs to start again."""
LONGEST_PAUSE_SECONDS = 60.0
HOPELESS = (400, 401, 403, 404, 410)


@dataclass(frozen=True)
class Checksum:
    """algorithm: a name that `hashlib` knows; hexadecimal: the digest, or how it begins."""

    algorithm: str
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hexadecimal}"


def is_address(place: str) -> bool:
    """Whether this is to be fetched, not opened."""
    return place.startswith(("http://", "https://"))


def fetch(
    address: str,
    path: Path,
    *,
    what: str,
    size: int | None = None,
    checksum: Checksum | None = None,
    attempts: int = ATTEMPTS,
    progress: bool = True,
) -> Path:
    """`path`, downloaded from `address`; it appears when it is whole and right.

    What has come is kept in `path.part` and gone on with, by the next attempt or the next start.

    Args:
        what: the file's name in errors and in the progress bar.
        size: its bytes, if known.
        attempts: how many connections in a row may bring nothing before giving up.

    Raises:
        InputError: the address does not answer, or the file is not the one expected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failed, most = 0, _size_of(part)
    while True:
        try:
            _append(address, part, what=what, size=size, progress=progress)
            break
        except (OSError, http.client.HTTPException, ValueError) as error:
            # A file of days is cut off many times. The most that ever was: some servers begin it anew each time.
            failed = 1 if _size_of(part) > most else failed + 1
            most = max(most, _size_of(part))
            refused = isinstance(error, urllib.error.HTTPError) and error.code in HOPELESS
            if refused or isinstance(error, ValueError) or failed >= attempts:
                raise _failure(what, address, part, error) from error
            pause = min(2.0 ** (failed - 1), LONGEST_PAUSE_SECONDS)
            LOGGER.warning("%s: %s: %s; trying again in %.0f s", what, address, error, pause)
            time.sleep(pause)
    if checksum is not None and not (found := digest_of(part, checksum.algorithm)).startswith(checksum.hexadecimal):
        part.unlink()
        _validator(part).unlink(missing_ok=True)
        raise InputError(f"{what}: {address} has {checksum.algorithm} {found}, expected {checksum.hexadecimal}")
    os.replace(part, path)
    _validator(part).unlink(missing_ok=True)
    return path


def _append(address: str, part: Path, *, what: str, size: int | None, progress: bool) -> None:
    """Write what `part` lacks; OSError if the connection ends early."""
    have = _size_of(part)
    if size is not None and have >= size:
        if have == size:
            return
        part.unlink()
        have = 0
    request = urllib.request.Request(address)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _validator(part).is_file():  # the file on the server must still be the one that was begun
            request.add_header("If-Range", _validator(part).read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        whole = error.headers.get("Content-Range", "") == f"bytes */{have}"
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and whole:
            return  # all has come
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        raise
    with response:
        going_on = response.status == http.client.PARTIAL_CONTENT
        have = have if going_on else 0
        announced = response.headers.get("Content-Length")
        total = have + int(announced) if announced else size
        if size is not None and total != size:
            raise ValueError(f"the file there has {total} bytes, expected {size}")
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            _validator(part).write_text(validator, encoding="utf-8")
        with (
            part.open("ab" if going_on else "wb", buffering=0) as file,
            tqdm(
                total=total, initial=have, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
            ) as bar,
        ):
            while chunk := response.read1(CHUNK_BYTES):  # what has come, without waiting for more
                file.write(chunk)
                bar.update(len(chunk))
    received = part.stat().st_size
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received} of {total} bytes")


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _failure(what: str, address: str, part: Path, reason: Exception) -> InputError:
    have = _size_of(part)
    kept = f"; {have} bytes are kept, the next start goes on there" if have else ""
    return InputError(f"{what}: cannot download {address} ({' '.join(str(reason).split())}){kept}")


def digest_of(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_input(file: str) -> str:
    """SHA-256 of an image or mask; an `InputError` that names it if it cannot be read."""
    try:
        return digest_of(Path(file), "sha256")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; mend or remove it") from error


def size_at(address: str) -> int | None:
    """Bytes of the file at `address`, if the server tells."""
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            announced = response.headers.get("Content-Length")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return int(announced) if announced else None


def require_space(folder: Path, needed: int, *, what: str) -> None:
    """An `InputError` unless the disk of `folder` has `needed` bytes left."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = free_space(existing)
    if free < needed:
        raise InputError(
            f"{what} needs {needed / 1e9:.1f} GB in {folder}, the disk has {free / 1e9:.1f} GB left; make room or "
            "choose another folder"
        )


def free_space(folder: Path) -> int:
    """Bytes."""
    return shutil.disk_usage(folder).free
