"""Fetching large files: a cut connection, a kill or a full disk loses nothing that has come.

Only what is known to be of one version is put together: the server's mark of a version (RFC 9110, 8.8) is kept beside
what has come, sent with the request for the rest (13.1.5), and compared with that of the answer, as are all sizes.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from saicinpainting.io.connection import (
    Answer,
    StalledError,
    TransferError,
    open_address,
    text_without_secrets,
    without_secrets,
)
from saicinpainting.io.files import naming, part_of, write_whole
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
ATTEMPTS = 5
PATIENT_ATTEMPTS = 10
"""Four minutes of connections that are refused at once: what a server needs to start again."""
LONGEST_PAUSE_SECONDS = 60.0
LEAST_BYTES = 1000
"""A connection that brings fewer counts as one that brings nothing."""
VALIDATORS = ("ETag", "Last-Modified")
NO_SUCH_RANGE = http.client.REQUESTED_RANGE_NOT_SATISFIABLE
HOPELESS = (*range(300, 400), 400, 401, 403, 404, 410)


@dataclass(frozen=True)
class Checksum:
    """algorithm: a name that `hashlib` knows; hexadecimal: the digest, or how it begins."""

    algorithm: str
    hexadecimal: str

    def __post_init__(self) -> None:
        if not self.hexadecimal:  # every file has a digest that begins with nothing
            raise InputError(f"an empty {self.algorithm}: expected the hexadecimal digits of a checksum")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hexadecimal}"


class _OtherVersionError(TransferError):
    """What comes is not the rest of what is there, which is of no use any more."""


@dataclass(frozen=True)
class _Version:
    """validator: what `header` says, a strong ETag or, where there is none, Last-Modified; total: bytes, if known."""

    header: str
    validator: str
    total: int | None

    @classmethod
    def noted(cls, note: Path) -> _Version | None:
        """None where nothing is noted, or what is noted makes no sense."""
        try:
            version = cls(**json.loads(note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        known = version.header in VALIDATORS and isinstance(version.total, int | None)
        return version if known and _can_be_sent(version.validator) else None

    @classmethod
    def of(cls, answer: Answer) -> _Version | None:
        """None where the server marks no version, or by a weak ETag, which files of other bytes may share."""
        header = next((name for name in VALIDATORS if answer.headers.get(name)), None)
        validator = answer.headers.get(header or "", "")
        if header is None or not _can_be_sent(validator) or validator.upper().startswith("W/"):
            return None
        return cls(header, validator, answer.total)

    def goes_on_in(self, answer: Answer) -> bool:
        """Whether a part of a file is of this version. It has to repeat an ETag, but not Last-Modified (15.3.7)."""
        told = answer.headers.get(self.header, None if self.header == "ETag" else self.validator)
        return told == self.validator and (None in (self.total, answer.total) or self.total == answer.total)


def _can_be_sent(validator: object) -> bool:
    return isinstance(validator, str) and validator.isascii() and validator.isprintable()


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

    What has come is kept in `path.part`; the next attempt or start resumes it, if there is a checksum or the server
    tells versions apart.

    Args:
        what: the file's name in errors and in the progress bar.
        size: its bytes, if known.
        attempts: how many connections in a row may bring nothing before giving up.

    Raises:
        InputError: the address does not answer, or the file is not the one expected.
        OSError: the disk takes no more; what has come is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    failed, most, shown = 0, _size_of(part), without_secrets(address)
    while True:
        try:
            _append(address, part, what=what, size=size, checked=checksum is not None, progress=progress)
            break
        except (TransferError, ValueError) as error:
            # A file of days is cut off many times. The most that ever was: some servers begin it anew each time.
            come = _size_of(part)
            failed = 1 if come >= most + LEAST_BYTES and not isinstance(error, StalledError) else failed + 1
            most = max(most, come)
            if isinstance(error, _OtherVersionError):
                _forget(part)
            cause = error.__cause__
            refused = isinstance(cause, urllib.error.HTTPError) and cause.code in HOPELESS
            if refused or isinstance(error, ValueError) or failed >= attempts:
                said = " ".join(text_without_secrets(str(error)).split())
                kept = f"; {have} bytes are kept, the next start goes on there" if (have := _size_of(part)) else ""
                raise InputError(f"{what}: cannot download {shown} ({said}){kept}") from error
            pause = min(2.0 ** (failed - 1), LONGEST_PAUSE_SECONDS)
            LOGGER.warning("%s: %s: %s; trying again in %.0f s", what, shown, error, pause)
            time.sleep(pause)
    if checksum is not None and not (found := digest_of(part, checksum.algorithm)).startswith(checksum.hexadecimal):
        _forget(part)
        raise InputError(f"{what}: {shown} has {checksum.algorithm} {found}, expected {checksum.hexadecimal}")
    os.replace(part, path)
    _note(part).unlink(missing_ok=True)
    return path


def _append(address: str, part: Path, *, what: str, size: int | None, checked: bool, progress: bool) -> None:
    """Write what `part` lacks.

    checked: a checksum will tell, so that a part of an unknown version is of use.

    Raises:
        TransferError: the connection ends early.
        ValueError: the file is not the one expected.
    """
    have, known = _size_of(part), _Version.noted(_note(part))
    total = size if size is not None else known.total if known else None
    if (known is None and not checked) or (total is not None and have > total):
        have = 0
    elif have and have == total:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and known is not None:
        headers["If-Range"] = known.validator
    try:
        answer = open_address(address, headers)
    except TransferError as error:
        refusal = error.__cause__
        if not have or not isinstance(refusal, urllib.error.HTTPError) or refusal.code != NO_SUCH_RANGE:
            raise
        if refusal.headers.get("Content-Range", "") == f"bytes */{have}":  # there is nothing after these
            return
        raise _OtherVersionError("the server has a shorter file now") from error
    with answer:
        if answer.begin not in (0, have) or (answer.begin and known and not known.goes_on_in(answer)):
            raise _OtherVersionError("the server has another file now, or another part of it")
        if size is not None and answer.total not in (None, size):
            raise ValueError(f"the file there has {answer.total} bytes, expected {size}")
        total = answer.total if answer.total is not None else size
        if answer.partial and total is None:
            raise _OtherVersionError("the server does not tell how large the file is")
        with (
            naming(part),
            part.open("ab" if answer.begin else "wb") as file,
            tqdm(
                total=total, initial=answer.begin, desc=what, unit="B", unit_scale=True, unit_divisor=1024,
                disable=not progress,
            ) as bar,
        ):  # fmt: skip
            if not answer.begin:  # after the old bytes are gone, before new ones come
                _note(part).unlink(missing_ok=True)
                if (version := _Version.of(answer)) is not None:
                    write_whole(_note(part), json.dumps(asdict(version)))
            while chunk := answer.read(CHUNK_BYTES):
                if total is not None and file.tell() + len(chunk) > total:
                    raise _OtherVersionError(f"more than {total} bytes come")
                file.write(chunk)
                bar.update(len(chunk))
    received = _size_of(part)
    if total is not None and received != total:
        raise TransferError(f"the connection ended after {received} of {total} bytes")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    for file in (part, _note(part)):
        file.unlink(missing_ok=True)


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


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
        with open_address(address, method="HEAD") as answer:
            return answer.total
    except (OSError, ValueError):
        return None


def require_space(folder: Path, needed: int, *, what: str) -> None:
    """An `InputError` unless the disk of `folder`, which is made, has `needed` bytes left."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{what} needs {needed / 1e9:.1f} GB in {folder}, the disk has {free / 1e9:.1f} GB left; make room or "
            "choose another folder"
        )
