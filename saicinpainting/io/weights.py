"""Fetching weight files from the internet, once, to a place where they may also be put by hand."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from saicinpainting.io.connection import is_address, without_secrets
from saicinpainting.io.download import Checksum, fetch
from saicinpainting.io.files import disk_problem
from saicinpainting.utils import InputError

ATTEMPTS = 3
DATE = r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\."


def torch_home() -> Path:
    """Where PyTorch keeps what it downloads: $TORCH_HOME, else $XDG_CACHE_HOME/torch, else ~/.cache/torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser()


def weights_file(place: str | Path | None, url: str, *, what: str) -> Path:
    """The file of weights that a setting names: a file, an address, or None for `url`.

    What has an address is downloaded once, to where PyTorch keeps its own; `#sha256=` after it and the checksum, or its
    first digits, have the download checked. Another address than `url` is told by a digest in the file's name.
    """
    address = url if place is None else str(place)
    if place is not None and not address.startswith("file://") and not is_address(address):
        return fetch_weights(Path(place).expanduser(), url, what=what)
    own = "" if address == url else hashlib.sha256(address.encode()).hexdigest()[:8] + "-"
    address, mark, checksum = address.partition("#")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", checksum)
    if mark and not found:
        raise InputError(
            f"{what}: expected {without_secrets(address)}#sha256= and 8 to 64 hexadecimal digits, got #{checksum}"
        )
    path = torch_home() / "hub" / "checkpoints" / (own + Path(urlsplit(address).path).name)
    return fetch_weights(path, address, what=what, sha256=found[1] if found else None)


def is_offline() -> bool:
    """Whether LAMA_OFFLINE forbids downloads of weights."""
    return os.environ.get("LAMA_OFFLINE", "") not in ("", "0")


def fetch_weights(path: str | Path, url: str, *, what: str, sha256: str | None = None) -> Path:
    """`path` if it exists, else the file at `url`, downloaded to `path`.

    The file appears only when complete, so an interrupted download never passes for weights; the next start goes on
    with it. Processes that need the same file wait for the one that downloads it. `what` names it in errors and in
    the progress bar; `sha256`: its checksum or the first digits of it. Without it, as PyTorch does it, an address that
    ends in a dash and eight or more hexadecimal digits tells them, unless they are a date. LAMA_OFFLINE=1 forbids the
    download.
    """
    path = Path(path)
    if path.is_file():
        return path
    by_hand = f"put the file by hand at {path.absolute()}"
    if is_offline():
        raise InputError(f"{what}: cannot download {without_secrets(url)} (LAMA_OFFLINE is set); {by_hand}")
    if sha256 is None and (found := re.search(rf"-(?!{DATE})(?P<digits>[0-9a-f]{{8,}})\.\w+$", without_secrets(url))):
        sha256 = found["digits"]
    checksum = Checksum("sha256", sha256.lower()) if sha256 else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # another process may have brought it
                fetch(url, path, what=what, checksum=checksum, attempts=ATTEMPTS)
                _refuse_page(path, url, what)
    except (InputError, OSError) as error:
        reason = error if isinstance(error, InputError) else f"{what}: {disk_problem(error) or error}"
        raise InputError(f"{reason}; {by_hand}") from error
    return path


def _refuse_page(path: Path, url: str, what: str) -> None:
    """An `InputError` for what a server gives in place of weights: a page to log in at, or to confirm a download on."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        path.unlink()
        raise InputError(f"{what}: {without_secrets(url)} answers with a web page; give the address of the file itself")
