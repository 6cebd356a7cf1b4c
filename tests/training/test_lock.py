"""Two runs in one folder: processes forked from this one stand for runs, on this machine or another."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saicinpainting.io.signals import StopSignals
from saicinpainting.training import lock
from saicinpainting.training.lock import LEASE, LEASE_SECONDS, is_going_on, only_run_in
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import write_data
from tests.runs import compose_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
SECONDS = 2.0  # of a lease


def no_system_lock(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOLCK, "No locks available")


def hold(folder: Path, elsewhere: bool, holds: Any) -> None:
    """A run that goes on until it is killed; its loader's worker survives it for a while."""
    if elsewhere:  # another machine, on a disk whose locks are each machine's own
        socket.gethostname = lambda: "node17"
        lock.FileLock = no_system_lock
    with only_run_in(folder, StopSignals(), lease_seconds=SECONDS):
        worker = os.fork()
        if worker:
            holds.send(worker)
        time.sleep(60)
        os._exit(0)


@contextmanager
def run_in(folder: Path, *, elsewhere: bool = False) -> Iterator[Callable[[], None]]:
    """A run that goes on in `folder`, and what kills it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(folder, elsewhere, theirs))
    process.start()
    worker = ours.recv()

    def kill() -> None:
        process.kill()
        process.join()

    try:
        yield kill
    finally:
        kill()
        os.kill(worker, signal.SIGKILL)


def enter(folder: Path) -> float:
    """Begin and end a run in `folder`; the seconds it took."""
    began = time.monotonic()
    with only_run_in(folder, StopSignals(), lease_seconds=SECONDS):
        assert (folder / lock.LEASE).is_file()
    return time.monotonic() - began


def test_a_second_run_is_refused_and_may_begin_when_the_first_is_killed(tmp_path: Path):
    """At once, though a worker that the first has forked still lives."""
    with run_in(tmp_path) as kill:
        with pytest.raises(InputError, match=rf"a run is going on there \(process \d+ on {socket.gethostname()}\)"):
            enter(tmp_path)
        kill()
        enter(tmp_path)
        enter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_folder_is_not_occupied(tmp_path: Path):
    with run_in(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert (tmp_path / "copy" / lock.LEASE).is_file()
        enter(tmp_path / "copy")


def test_a_run_on_another_machine_is_known_by_the_lease_that_it_renews(tmp_path: Path, caplog):
    with run_in(tmp_path, elsewhere=True) as kill:
        with pytest.raises(InputError, match=r"a run is going on there \(process \d+ on node17\)"):
            enter(tmp_path)
        assert "node17" in caplog.text
        assert "waiting 2 seconds for a sign of it" in caplog.text
        kill()
        assert enter(tmp_path) >= SECONDS


def test_a_disk_without_locks_has_the_lease_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "FileLock", no_system_lock)
    with run_in(tmp_path) as kill:
        with pytest.raises(InputError, match=r"a run is going on there"):
            enter(tmp_path)
        kill()
        enter(tmp_path)


def test_a_run_is_refused_before_it_touches_anything(tmp_path: Path):
    write_data(tmp_path / "data")
    folder = tmp_path / "run"
    with run_in(folder):
        before = sorted(path.name for path in folder.iterdir())
        for resume in ("null", "auto"):
            with pytest.raises(InputError, match=r"run: a run is going on there .*set another hydra\.run\.dir"):
                train(compose_run(tmp_path, f"trainer.resume_from_checkpoint={resume}"), folder)
        assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on_another_machine"])
def test_a_look_tells_whether_a_run_is_going_on(elsewhere: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not is_going_on(folder)
    with run_in(folder, elsewhere=elsewhere) as kill:
        assert is_going_on(folder)
        kill()
        assert is_going_on(folder) == elsewhere  # of a process there, nothing but the lease is seen
        old = time.time() - LEASE_SECONDS - 1
        os.utime(folder / LEASE, (old, old))
        assert not is_going_on(folder)
