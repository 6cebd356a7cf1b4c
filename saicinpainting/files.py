"""Files that appear whole or not at all, and work over many of them in several processes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, `path.part`, which becomes `path` when the block ends without an error."""
    part = path.with_name(f"{path.name}.part")
    yield part
    os.replace(part, path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes, and the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of `source`, or a copy where the file system has no links or `target` lies on another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def map_in_processes(
    work: Callable[[T], R],
    items: Sequence[T],
    n_jobs: int,
    *,
    chunksize: int = 1,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[R]:
    """`map(work, items)`, in the order of the items, by `n_jobs` processes; one job is this process.

    A process gets `work` once, when it starts: what it holds may be large, and keeps what it builds for later items.
    Processes are spawned: they start clean on every system, while forked ones may inherit locks of OpenCV's threads.
    """
    if n_jobs < 2:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    given = (work, initializer, initargs)
    with ProcessPoolExecutor(n_jobs, mp_context=context, initializer=_set_up, initargs=given) as pool:
        yield from pool.map(_do, items, chunksize=chunksize)


_work: Callable[[Any], Any]
"""Of a process that `map_in_processes` has started."""


def _set_up(work: Callable[[Any], Any], initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
    global _work
    _work = work
    if initializer is not None:
        initializer(*initargs)


def _do(item: Any) -> Any:
    return _work(item)
