"""Files that appear whole or not at all, what the disk says where they cannot, and work over many of them."""

from __future__ import annotations

import codecs
import errno
import hashlib
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

from saicinpainting.utils import InputError

T = TypeVar("T")
R = TypeVar("R")


SHARED_MEMORY, SHARED_BYTES = "/dev/shm", 1 << 20
"""Where processes share what they have read; with fewer bytes free it counts as full."""
LONGEST_NAME = 255
"""Bytes of a file's name, on all usual file systems."""
_PATH = "check the rights on it or give another path"
_ROOM = "make room, then start again"
_BROKEN = "the disk, or the connection to it, fails; check it, then start again"
_REMEDIES = {
    "ENOSPC": _ROOM,
    "EDQUOT": _ROOM,
    "EFBIG": "the file system or `ulimit -f` forbids a file of that size; give another path",
    "EROFS": "give a path that can be written to",
    **dict.fromkeys(("EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "EREMOTEIO"), _BROKEN),
    "EMFILE": "raise `ulimit -n`, or use fewer processes",
    "ENFILE": "the machine has too many files open; close some",
    "ENOMEM": "the memory is full; use fewer processes",
}
REMEDIES = {getattr(errno, name): remedy for name, remedy in _REMEDIES.items() if hasattr(errno, name)}
"""What to do about errors of the system that concern the machine, not one path. Not every system has all of them."""


def disk_problem(error: BaseException | None) -> str | None:
    """`FILE: no space left on device; what to do`, of the system's error that is or has caused `error`.

    Libraries wrap it in errors of their own. None where there is none, so that `error` is a fault of a program.
    """
    first = error
    while error is not None:
        if isinstance(error, OSError) and (error.errno in REMEDIES or (error is first and error.filename is not None)):
            file = error.filename2 or error.filename  # of a copy that failed: where it was to go
            if file is None and error.errno == errno.ENOSPC and _is_full(SHARED_MEMORY):
                return f"{SHARED_MEMORY} is full; make it larger, or set num_workers=0, which does not use it"
            where = "" if file is None else f"{os.fsdecode(file)}: "
            return f"{where}{str(error.strerror).lower()}; {REMEDIES.get(error.errno or 0, _PATH)}"
        error = error.__cause__ or error.__context__
    return None


def _is_full(folder: str) -> bool:
    return os.path.isdir(folder) and shutil.disk_usage(folder).free < SHARED_BYTES


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of reading and writing, unlike those of opening, do not say of which file; here they say `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, `path.part`, which becomes `path` when the block ends without an error.

    After an error `path` is what it was before, and nothing is left of the part.
    """
    part = part_of(path)
    try:
        with naming(path):
            yield part
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def part_of(path: Path) -> Path:
    """The name of `path` while it is written: the same whenever, so that a kill leaves one part at most."""
    name = f"{path.name}.part"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part"
    return path.with_name(name)


def printable(text: str) -> str:
    """`text` with escapes for what is no UTF-8 in the names of files."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_names(path: str | os.PathLike[str]) -> str:
    """The text of a list of files, without the byte order mark that Windows' editors begin it with."""
    return os.fsdecode(Path(path).read_bytes().removeprefix(codecs.BOM_UTF8))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (see `printable`) or bytes, and the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(printable(content).encode() if isinstance(content, str) else content)


def append(path: Path, text: str) -> None:
    """Add `text` to a file; characters as `write_whole`."""
    with naming(path), path.open("ab") as file:
        file.write(printable(text).encode())


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
    name_of: Callable[[T], object] = str,
    chunksize: int = 1,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[R]:
    """`map(work, items)`, in the order of the items, by `n_jobs` processes; one job is this process.

    A process gets `work` once, when it starts: what it holds may be large, and keeps what it builds for later items.
    Processes are spawned: they start clean on every system, while forked ones may inherit locks of OpenCV's threads.

    Args:
        name_of: what an error calls an item.

    Raises:
        InputError: a process was killed.
    """
    if n_jobs < 2:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    done = 0
    with ProcessPoolExecutor(n_jobs, context, _set_up, (work, initializer, initargs)) as pool:
        try:
            for result in pool.map(_do, items, chunksize=chunksize):
                yield result
                done += 1
        except BrokenProcessPool as error:
            last = min(done + n_jobs * chunksize, len(items)) - 1
            raise InputError(
                f"a process was killed, most often because the memory is full; it worked on an item from "
                f"{name_of(items[done])} to {name_of(items[last])}; start again with fewer processes"
            ) from error


def set_up_reader(worker_id: int) -> None:
    """Of a data loader's worker, as `worker_init_fn`: it ends where it cannot hand over what it has read.

    The loader tells then. By default it waits for ever for an item that did not fit into `SHARED_MEMORY`. It ends with
    its parent, too: torch's own look at that takes whoever is the parent now for the one that has started it.
    """
    end_with_parent()
    Queue._on_queue_feeder_error = staticmethod(_end_process)  # type: ignore[attr-defined]


def end_with_parent() -> None:
    """End this process, which `multiprocessing` has started, when the one that has started it is gone, or at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _end_process(error: Exception, _: object) -> None:
    print(f"a loader's worker ends: {error}", file=sys.stderr, flush=True)
    os._exit(1)


_work: Callable[[Any], Any]
"""Of a process that `map_in_processes` has started."""


def _set_up(work: Callable[[Any], Any], initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
    global _work
    end_with_parent()
    _work = work
    if initializer is not None:
        initializer(*initargs)


def _do(item: Any) -> Any:
    return _work(item)
