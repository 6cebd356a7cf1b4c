"""Worker processes of data loaders that end with their run, not with a signal that is meant for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import cv2
from torch.utils.data import DataLoader

from saicinpainting.io.files import set_up_reader
from saicinpainting.io.signals import SIGNALS

T = TypeVar("T", covariant=True)


class RunDataLoader(DataLoader[T]):
    """`DataLoader` whose workers go on loading when a scheduler signals all processes of a run.

    The run ends its step and saves; then it ends its workers by SIGTERM. torch's own would end at the scheduler's
    signal, ones that ignored it would never end. Needs `worker_init_fn=set_up_worker`.
    """

    def __iter__(self) -> Any:
        if self.num_workers and (self.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            resource_tracker.ensure_running()  # it would be started below, and unblock signals
        with _signals_blocked():  # a process starts with the mask of the one that starts it
            return super().__iter__()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_up_worker(worker_id: int) -> None:
    # OpenCV would start a thread per core in every worker; torch keeps to one by itself.
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_when_told, name="signals", daemon=True).start()
    else:  # macOS, where a worker that is signalled with the run ends
        for number in SIGNALS:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
    set_up_reader(worker_id)  # its thread has this one's signal mask


def _end_when_told() -> None:
    """Wait for a signal from the process that has started this one; it means this worker, all others the run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
        pass
    os._exit(0)
