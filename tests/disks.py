"""Disks that refuse, without any rights that would be needed to make one full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system writes no more than `size` bytes of any file; the rest is EFBIG, in the middle of whatever it is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def no_room_for(path: Path) -> None:
    """The next time that `path` is written as a whole the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.part").symlink_to("/dev/full")
