"""Signals that ask a run to stop, heard from the first line of its command on.

Imports the standard library alone: whatever else a run needs takes seconds to import, in which a signal may come.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

LOGGER = logging.getLogger(__name__)

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: start the same command again
# USR1: SLURM's `--signal=USR1@90`; USR2: submitit's own; INT: Ctrl-C
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT") if hasattr(signal, name))
GRACE = 10.0
"""Seconds that a process has to end by itself once its run has saved itself or is over."""
STARTED_BY = "LAMA_STARTED_BY"
"""Environment variable: the process of rank 0, for the ranks that it starts."""
ENDS_WITH = "LAMA_ENDS_WITH"
"""Environment variable: the process of a sweep, for the runs that it starts: without it nobody would know of them."""
CHECK_EVERY = 2.0
"""Seconds between two looks whether the process of rank 0, or of the sweep, still lives."""


class StopSignals:
    """Notes the first signal, and in a command answers it by how far the run has come.

    - Before training there is nothing to save: the command ends at once, whatever it is doing.
    - In training, from `save_first` on, `StopOnSignal` ends the step, saves and stops.
    - When the run has saved itself or is over, from `end_with` on, the process has `GRACE` seconds left.

    Without `watch`, as in a notebook, signals are only noted, from `listen` on.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # the name of the first
        self._answer: Callable[[], None] = self._leave
        self._saves = False
        self._status = EXIT_STATUS
        self._ends = False
        self._before_leaving: list[Callable[[], Any]] = []
        self._watches = False
        self._rank_0: int | None = None  # its process, if that has started this one
        self._sweep: int | None = None  # likewise

    def __reduce__(self) -> Any:
        """A process that is given a copy has signals of its own."""
        return StopSignals, ()

    def watch(self) -> None:
        """Hear and answer the signals of this process, whose only business is the run.

        A thread answers them: the main one hears nothing while it waits in C code, for another rank to start as well.
        """
        if os.name != "posix":
            return
        atexit.register(self._at_exit)  # what is registered first is called last
        if os.environ.get(STARTED_BY) == str(os.getppid()):
            self._rank_0 = os.getppid()
        else:
            os.environ[STARTED_BY] = str(os.getpid())
        if os.environ.get(ENDS_WITH) == str(os.getppid()):
            self._sweep = os.getppid()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        self._watches = True
        self.listen()
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()

    def listen(self) -> None:
        """Note signals from now on, whoever handled them before."""
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def before_leaving(self, action: Callable[[], Any]) -> None:
        """Have `action` called if the process is ended while its main thread is busy."""
        self._before_leaving.append(action)

    def pass_on(self, send: Callable[[int], Any]) -> None:
        """From now on other processes train and this one waits for them; `send` sends them a signal."""
        self._answer = lambda: send(signal.SIGTERM)

    def take_back(self) -> None:
        """The other processes are gone, and there is nothing to save."""
        self._answer = self._leave

    def save_first(self) -> None:
        """From now on there is something to save: `StopOnSignal` ends the run."""
        self._answer, self._saves = lambda: None, True

    def end_with(self, status: int, *, soon: bool = False) -> None:
        """From now on a signal ends the process with `status`: the run has saved itself, has failed or is over.

        soon: as if a signal had come already.
        """
        self._status = status
        self._answer, self._saves = self._end_soon, False
        self.listen()  # a second Ctrl-C would raise KeyboardInterrupt
        self._ends = soon or self.received is not None
        if self._ends and not self._watches and multiprocessing.parent_process() is not None:
            atexit.register(self._at_exit)  # a rank that was spawned: unloading its libraries takes seconds
        if self._ends:
            self._end_soon()

    # ---- in the main thread -----------------------------------------------------------------------------------------

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if number == signal.SIGINT and self._saves:
            signal.signal(number, signal.default_int_handler)  # a second Ctrl-C does not wait

    def _at_exit(self) -> None:
        for number in SIGNALS:  # one that comes now does not change the status
            signal.signal(number, signal.SIG_IGN)
        if self._ends:  # threads stop here, so nothing would end a library that hangs while it is unloaded
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(self._status)

    def _forget(self) -> None:
        """A process that is forked from this one has no such thread, and must not write to its pipe."""
        signal.set_wakeup_fd(-1)
        self.__init__()  # type: ignore[misc]

    # ---- in the thread that watches ---------------------------------------------------------------------------------

    def _watch(self, pipe: int) -> None:
        while True:
            alone = self._rank_0 is None and self._sweep is None
            if select.select([pipe], [], [], None if alone else CHECK_EVERY)[0]:
                # Other signals that Python handles come here as well.
                number = next((number for number in os.read(pipe, 1024) if number in SIGNALS), None)
                if number is not None:
                    self.received = self.received or signal.Signals(number).name
                    self._answer()
            if self._rank_0 is not None and os.getppid() != self._rank_0:
                os._exit(1)  # rank 0 was killed; this one would wait for it
            if self._sweep is not None and os.getppid() != self._sweep:
                self._sweep = None
                os.kill(os.getpid(), signal.SIGTERM)  # the sweep was killed: the run saves itself

    def _leave(self) -> None:
        if self._rank_0 is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rank_0, signal.SIGTERM)  # which ends all that it has started
            return
        self._end_soon(1.0)  # whatever happens here
        LOGGER.warning("stopped by %s before the first step; start the same command again", self.received)
        self._end()

    def _end_soon(self, seconds: float | None = None) -> None:
        if self._watches:
            timer = threading.Timer(GRACE if seconds is None else seconds, self._end)
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        actions, self._before_leaving = self._before_leaving, []
        for action in reversed(actions):
            with contextlib.suppress(Exception):
                action()
        os._exit(self._status)
