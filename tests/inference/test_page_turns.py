"""Turns of the page: one at a time, in order, each of which can be stopped, waiting too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from saicinpainting.inference.page_turns import Turns
from saicinpainting.inference.stopping import StoppedError, check_stop


class Sessions:
    """Sessions that have turns, and what they did."""

    def __init__(self) -> None:
        self.turns, self.done, self.may_end = Turns(), list[str](), threading.Event()

    def start(self, session: str) -> threading.Thread:
        def fill() -> None:
            try:
                with self.turns.turn(session):
                    self.done.append(f"{session} began")
                    while not self.may_end.wait(0.01):
                        check_stop()
                    self.done.append(f"{session} ended")
            except StoppedError:
                self.done.append(f"{session} stopped")

        thread = threading.Thread(target=fill, daemon=True)
        taken = len(self.turns._line)
        thread.start()
        wait_until(lambda: len(self.turns._line) > taken)
        return thread


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_whoever_came_first_has_the_turn_and_a_stop_gives_it_to_the_next() -> None:
    sessions = Sessions()
    first, second, third = (sessions.start(name) for name in ("a", "b", "c"))
    assert sessions.turns.stop("b")  # which waits
    second.join(20)
    sessions.turns.stop("a")
    first.join(20)
    wait_until(lambda: "c began" in sessions.done)
    sessions.may_end.set()
    third.join(20)
    assert sorted(sessions.done[:3]) == ["a began", "a stopped", "b stopped"]
    assert sessions.done[3:] == ["c began", "c ended"]
    assert not sessions.turns.are_taken()
    assert not sessions.turns.stop("a")  # whose turn is over
    with sessions.turns.turn("a"):
        check_stop()


def test_a_stop_before_the_turn_is_asked_for_counts_for_it() -> None:
    sessions = Sessions()
    sessions.may_end.set()
    sessions.turns.expect("a")
    sessions.turns.stop("a")
    for outcome in (["a stopped"], ["a stopped", "a began", "a ended"]):
        try:
            with sessions.turns.turn("a"):
                sessions.done += ["a began", "a ended"]
        except StoppedError:
            sessions.done.append("a stopped")
        assert sessions.done == outcome


def test_closing_stops_all_and_says_whether_they_have_ended() -> None:
    sessions = Sessions()
    threads = [sessions.start(name) for name in ("a", "b")]
    assert sessions.turns.close(20)
    for thread in threads:
        thread.join(20)
    assert sorted(sessions.done) == ["a began", "a stopped", "b stopped"]

    computing = threading.Event()
    turns = Turns()

    def compute() -> None:
        with turns.turn("a"):
            computing.wait(20)

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    wait_until(turns.are_taken)
    assert not turns.close(0.05)
    computing.set()
    thread.join(20)
