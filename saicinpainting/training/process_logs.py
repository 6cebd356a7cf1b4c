"""What a run's processes log and warn of; those that are spawned inherit nothing of it."""

from __future__ import annotations

import logging
import sys
import warnings

from saicinpainting.io.logs import bear_full_logs

NO_NEWS = (
    ".*LeafSpec.*",  # Lightning's own use of what torch deprecates
    "`broadcast_buffers` is deprecated",  # likewise, of torch's DDP
    "Using ModelCheckpoint with manual optimization",  # that the weights are those after the step, as they should be
    # Networks of losses and metrics, which do not learn; `warnings_of` tells of those that should.
    "Found .* in eval mode at the start of training",
    "Total length of .* across ranks is zero",  # data.val=null, of which the run itself warns
    "It is recommended to use .*sync_dist=True",  # of metrics, which are over all ranks by then
    "Checkpoint directory .* exists and is not empty",  # refused, unless it is the run that goes on
)
"""Warnings of Lightning that every run would show and nobody has to do anything about."""


def ignore_no_news() -> None:
    for message in NO_NEWS:
        warnings.filterwarnings("ignore", message=message)


class ProcessLogs:
    """The logs of the process that makes it, for those that it spawns."""

    def __init__(self) -> None:
        root = logging.getLogger()
        self._level = root.level
        self._handlers = [
            (getattr(handler, "baseFilename", None), handler.stream is sys.stdout, handler.level, handler.formatter)
            for handler in root.handlers
            if isinstance(handler, logging.StreamHandler)
        ]

    def set_up(self) -> None:
        """Log as that process does, unless this one does so already."""
        root = logging.getLogger()
        if root.handlers or not self._handlers:
            return
        root.setLevel(self._level)
        for file, to_stdout, level, formatter in self._handlers:
            stream = sys.stdout if to_stdout else sys.stderr
            handler = logging.FileHandler(file) if file else logging.StreamHandler(stream)
            handler.setLevel(level)
            handler.setFormatter(formatter)
            root.addHandler(handler)
        for name in ("pytorch_lightning", "lightning_fabric"):  # they saw no handlers and took their own
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
        bear_full_logs()
