"""End a fill before it is done: long loops ask between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class StoppedError(Exception):
    """A fill was asked to stop and has; what filled is as it was before."""


_asked: ContextVar[Callable[[], bool] | None] = ContextVar("asked", default=None)


@contextmanager
def stopping_when(asked: Callable[[], bool]) -> Iterator[None]:
    """What is filled meanwhile, by this thread, ends with `StoppedError` soon after asked() is true."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def check_stop() -> None:
    """Raises `StoppedError` if the caller is to stop."""
    asked = _asked.get()
    if asked is not None and asked():
        raise StoppedError
