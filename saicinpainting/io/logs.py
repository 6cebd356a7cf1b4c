"""Logs that do not end the work: of a full disk, and of names that are no text."""

from __future__ import annotations

import functools
import io
import logging
import sys

from saicinpainting.io.files import disk_problem


def bear_full_logs() -> None:
    """A log that cannot be written is told once, and does not end the work or show a traceback for every line."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and not isinstance(handler.handleError, functools.partial):
            handler.handleError = functools.partial(_cannot_log, handler, [])  # type: ignore[method-assign]
            bear_names(handler.stream)


def bear_names(stream: object) -> None:
    """A file's name that is not UTF-8 is written with escapes; it is no reason to end."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _cannot_log(handler: logging.FileHandler, told: list[str], record: logging.LogRecord) -> None:
    problem = disk_problem(sys.exc_info()[1])
    if problem is None:
        logging.FileHandler.handleError(handler, record)
    elif not told:
        told.append(problem)
        print(f"warning: the log {handler.baseFilename} has gaps: {problem}", file=sys.stderr)
