"""One run at a time in a folder."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from saicinpainting.io.signals import StopSignals
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

LOCK, LEASE = ".run.lock", ".run.lease"
LEASE_SECONDS = 30.0
"""A run that has not renewed its lease for so long is over; it renews it three times as often."""


@contextmanager
def only_run_in(folder: Path, signals: StopSignals, *, lease_seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Keep other runs out of `folder` while the block lasts.

    The system's lock ends with its process, but some network disks have none, or one for each machine. So the run
    holds a lease besides, which it renews while it lives. A lease of another machine that is not renewed is taken over.

    Raises:
        InputError: another run is going on in `folder`; the message names its process and machine.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # Not bound to this thread: if a signal ends the process, another thread releases it.
    lease = SoftFileLease(folder / LEASE, lease_duration=lease_seconds, thread_local=False, timeout=0)
    try:
        with ExitStack() as stack:
            _lock(stack, folder, lease)
            _take(lease, folder, lease_seconds)
            stack.callback(lease.release, force=True)
            signals.before_leaving(stack.close)
            yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # nothing has come of the run


def is_going_on(folder: Path) -> bool:
    """Whether a run is going on in `folder`, here or on another machine; looks, and takes no lock."""
    owner = SoftFileLease(folder / LEASE, lease_duration=LEASE_SECONDS, thread_local=False).owner
    if owner is None:
        return False
    if owner.hostname.partition("?")[0] != socket.gethostname():
        with suppress(OSError):
            return time.time() - (folder / LEASE).stat().st_mtime < LEASE_SECONDS
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _lock(stack: ExitStack, folder: Path, lease: SoftFileLease) -> None:
    """Take the system's lock, if there is one; closing `stack` gives it back."""
    try:
        stack.enter_context(FileLock(folder / LOCK, timeout=0, thread_local=False, fallback_to_soft=False))
    except Timeout as error:
        raise _occupied(folder, lease) from error
    except OSError as error:
        LOGGER.debug("%s: no lock of the system (%s)", folder, error)
        return
    stack.callback(_remove, folder / LOCK)  # while it is locked, so that no other run holds it
    owner = lease.owner
    if owner is not None and owner.hostname.partition("?")[0] == socket.gethostname():
        lease.force_break()  # its run was killed, or lives in the folder that this one was copied from


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _take(lease: SoftFileLease, folder: Path, seconds: float) -> None:
    try:
        lease.acquire()
    except Timeout:
        LOGGER.warning("%s; waiting %.0f seconds for a sign of it", _occupied(folder, lease), seconds)
        try:
            lease.acquire(timeout=seconds + 5)
        except Timeout as error:
            raise _occupied(folder, lease) from error
    except OSError as error:
        raise InputError(f"{folder}: a run cannot write there ({error.strerror})") from error


def _occupied(folder: Path, lease: SoftFileLease) -> InputError:
    owner = lease.owner
    who = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
    return InputError(f"{folder}: a run is going on there ({who}); end it first, or set another hydra.run.dir")
