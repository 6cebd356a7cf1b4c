"""Fetching weight files from the internet, once, to a place where they may also be put by hand."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from tqdm import tqdm

from saicinpainting.utils import InputError

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0


def torch_home() -> Path:
    """Where PyTorch keeps what it downloads: $TORCH_HOME, else $XDG_CACHE_HOME/torch, else ~/.cache/torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser()


def fetch_weights(path: str | Path, url: str, *, what: str, sha256: str | None = None) -> Path:
    """`path` if it exists, else the file at `url`, downloaded to `path`.

    The file appears only when complete, so an interrupted download never passes for weights. `what` names it
    in errors and in the progress bar; `sha256`: its checksum or the first digits of it, as PyTorch puts them
    into file names. LAMA_OFFLINE=1 forbids the download.
    """
    path = Path(path)
    if path.is_file():
        return path
    if os.environ.get("LAMA_OFFLINE", "") not in ("", "0"):
        raise _failure(path, url, what, "LAMA_OFFLINE is set")
    # The process's id keeps apart ranks that start the same download at once.
    part = path.with_name(f"{path.name}.part.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, what=what, sha256=sha256)
        os.replace(part, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(path, url, what, str(error) or type(error).__name__) from error
    finally:
        with contextlib.suppress(OSError):  # none was begun, or it has its final name by now
            part.unlink()
    return path


def _download(url: str, part: Path, *, what: str, sha256: str | None) -> None:
    """Write `url` to `part`; ValueError if it is shorter than announced or has another checksum."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as file:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced else None
        with tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024) as progress:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        received = file.tell()
    if total is not None and received != total:
        raise ValueError(f"cut off after {received} of {total} bytes")
    if sha256 is not None and not digest.hexdigest().startswith(sha256.lower()):
        raise ValueError(f"SHA-256 is {digest.hexdigest()}, expected {sha256}")


def _failure(path: Path, url: str, what: str, reason: str) -> InputError:
    reason = " ".join(reason.split())
    return InputError(f"{what}: cannot download {url} ({reason}); put the file by hand at {path.absolute()}")
