"""Whose turn it is: the page fills one photograph after the other, and whoever waits or fills may stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from saicinpainting.inference.stopping import check_stop, stopping_when

LOOK_EVERY = 0.1
"""Seconds between two looks of one who waits whether to stop."""


class Turns:
    """One turn at a time, in the order they were asked for.

    Not by gradio's queue: that lets go of a fill that it cancels while its thread still computes, and the next would
    compute beside it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[object] = []  # the first one has its turn
        self._stops: dict[str, threading.Event] = {}
        self._closed = False

    def expect(self, session: str) -> None:
        """From now on `stop` counts for the turn that `session` is about to take."""
        self._stops[session] = threading.Event()

    def stop(self, session: str) -> bool:
        """End the turn of `session`, or its waiting for it, with `StoppedError`; whether it had one."""
        stop = self._stops.get(session)
        if stop is not None:
            stop.set()
        return stop is not None

    def are_taken(self) -> bool:
        return bool(self._line)

    @contextmanager
    def turn(self, session: str) -> Iterator[None]:
        """Wait, then have the turn, and end with `StoppedError` if asked to."""
        stop = self._stops.setdefault(session, threading.Event())
        place = object()
        with self._changed:
            self._line.append(place)
        try:
            with stopping_when(lambda: stop.is_set() or self._closed):
                with self._changed:
                    while self._line[0] is not place:
                        check_stop()
                        self._changed.wait(LOOK_EVERY)
                check_stop()
                yield
        finally:
            with self._changed:
                self._line.remove(place)
                self._changed.notify_all()
            if self._stops.get(session) is stop:
                del self._stops[session]

    def close(self, seconds: float) -> bool:
        """Stop all; whether they have ended within so many seconds."""
        self._closed = True
        with self._changed:
            return self._changed.wait_for(lambda: not self._line, seconds)
