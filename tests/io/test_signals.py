"""What a signal does to a command, by what it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from saicinpainting.io.signals import CHECK_EVERY, EXIT_STATUS, SIGNALS, StopSignals
from tests.bin.stopped_run import hears
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SCRIPT = Path(__file__).with_name("signalled.py")


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


@contextmanager
def process_that(state: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and which one is to be signalled: it, or the rank that it has started."""
    with process(str(SCRIPT), state) as running:
        assert running.stdout is not None
        yield running, int(running.stdout.readline())


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(number: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(number):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("state", "number"),
    [*(("starts", number) for number in SIGNALS), ("waits_for_a_rank_in_c", signal.SIGTERM)],
)
@pytest.mark.slow
def test_before_training_the_process_ends_at_once(state: str, number: signal.Signals):
    """Also in C code, in which Python's handlers do not run."""
    with process_that(state) as (running, target):
        if state == "waits_for_a_rank_in_c":
            time.sleep(0.5)
        os.kill(target, number)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == EXIT_STATUS
    assert errors == f"stopped by {number.name} before the first step; start the same command again\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc")
def test_a_signal_that_comes_during_the_imports_of_train():
    """As soon as the process has handlers at all."""
    with process(str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier") as running:
        while not hears(running.pid):
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == EXIT_STATUS
    assert "before the first step" in errors


@pytest.mark.slow
def test_a_rank_that_is_signalled_before_training_has_rank_0_end_all():
    with process_that("starts_with_a_rank") as (running, rank):
        assert rank != running.pid
        os.kill(rank, signal.SIGUSR1)
        assert running.wait(30) == EXIT_STATUS
        wait_until_gone(rank, 30)


@pytest.mark.slow
def test_a_rank_does_not_outlive_rank_0():
    """Killed, it cannot end the others; they would wait for it, and keep the memory of their GPUs."""
    with process_that("starts_with_a_rank") as (running, rank):
        running.kill()
        running.wait()
        wait_until_gone(rank, CHECK_EVERY + 30)


def test_in_training_the_step_is_ended_first():
    with process_that("trains") as (running, target):
        os.kill(target, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(target, signal.SIGUSR1)
        output, errors = running.communicate(timeout=30)
    assert (running.returncode, output, errors) == (EXIT_STATUS, "saved after SIGTERM\n", "")


def test_a_second_ctrl_c_does_not_wait_for_the_step():
    with process_that("trains") as (running, target):
        os.kill(target, signal.SIGINT)
        time.sleep(0.2)
        os.kill(target, signal.SIGINT)
        output, errors = running.communicate(timeout=30)
    assert output == ""
    assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize(("state", "status"), [("hangs_when_it_has_saved", EXIT_STATUS), ("is_over", 0)])
def test_what_hangs_at_the_end_is_ended(state: str, status: int):
    with process_that(state) as (running, target):
        if state == "is_over":
            os.kill(target, signal.SIGINT)
        output, _ = running.communicate(timeout=30)
    assert (running.returncode, output) == (status, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_does_not_change_the_status_of_a_process_that_ends(number: signal.Signals):
    with process_that("ends_meanwhile") as (running, target):
        for _ in range(3):
            os.kill(target, number)
            time.sleep(0.1)
        _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (EXIT_STATUS, "")


def test_in_python_signals_are_noted_and_nothing_is_ended():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signals = StopSignals()
        signals.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGUSR1"
        signals.end_with(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SPAWNED = f"""
import atexit, multiprocessing, sys, time
sys.path.insert(0, {str(ROOT)!r})
from saicinpainting.io.signals import StopSignals

def rank():
    atexit.register(time.sleep, 60)  # libraries that take their time to be unloaded
    StopSignals().end_with(75, soon=True)
    sys.exit(75)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=rank)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def test_a_rank_that_was_spawned_ends_at_once_when_it_has_saved(tmp_path: Path):
    (tmp_path / "spawned.py").write_text(SPAWNED)
    with process(str(tmp_path / "spawned.py")) as running:
        assert running.wait(45) == 75
