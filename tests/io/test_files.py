"""Files that appear whole or not at all, second names, work in several processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from saicinpainting.io.files import (
    append,
    disk_problem,
    link_or_copy,
    map_in_processes,
    set_up_reader,
    whole,
    write_whole,
)
from tests.disks import needs_full_device, no_room_for
from tests.helpers import is_running


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_whole(path, "\u00e4")
    assert path.read_bytes() == "\u00e4".encode()
    with pytest.raises(FileNotFoundError), whole(path) as part:
        part.write_bytes((tmp_path / "none").read_bytes())
    assert path.read_bytes() == "\u00e4".encode()
    write_whole(path, b"bytes")
    assert path.read_bytes() == b"bytes"


@needs_full_device
def test_a_file_that_cannot_be_written_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, "old")
    for content in (b"n", b"new" * 100_000):  # refused when the file is closed, and before
        no_room_for(path)
        with pytest.raises(OSError, match=r"No space left on device: '.*table\.csv'"):
            write_whole(path, content)
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "old")]
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*full'"):
        append(tmp_path / "full", "line")


def test_names_may_be_as_long_as_the_disk_takes_and_no_utf_8(tmp_path: Path) -> None:
    for name in ("n" * 255, "ä" * 127, os.fsdecode(b"caf\xe9")):
        write_whole(tmp_path / name, f"of {name}")
        assert (tmp_path / name).read_text() == f"of {name}".encode("utf-8", "backslashreplace").decode()
    assert len(list(tmp_path.iterdir())) == 3


def wrapped(error: OSError) -> Exception:
    try:
        try:
            raise error
        except OSError as inner:
            raise RuntimeError("a library fails") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        ("ENOSPC", "make room"),
        ("EDQUOT", "make room"),
        ("EROFS", "can be written to"),
        ("EIO", "the disk, or the connection to it, fails"),
        ("ESTALE", "the disk, or the connection to it, fails"),
        ("EFBIG", "forbids a file of that size"),
        ("EMFILE", "ulimit -n"),
    ],
)
def test_every_error_of_a_disk_has_its_own_advice(number: str, advice: str) -> None:
    error = OSError(getattr(errno, number), "It Says", "/there/a.png")
    for found in (disk_problem(error), disk_problem(wrapped(error))):
        assert found is not None
        assert found.startswith("/there/a.png: it says; ")
        assert advice in found
        assert ("make room" in found) == (number in ("ENOSPC", "EDQUOT"))
    unnamed = disk_problem(OSError(getattr(errno, number), "It says"))
    assert unnamed is not None
    assert unnamed.startswith("it says; ")


def test_other_errors_are_of_a_disk_if_they_name_a_file() -> None:
    assert disk_problem(IsADirectoryError(errno.EISDIR, "Is a directory", "out")) == (
        "out: is a directory; check the rights on it or give another path"
    )
    copied = OSError(errno.ENOSPC, "No space left", "from", None, "to")
    assert (disk_problem(copied) or "").startswith("to: no space left; make room")
    for other in (OSError("text"), ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("x"), None):
        assert disk_problem(other) is None
    assert disk_problem(wrapped(FileNotFoundError(errno.ENOENT, "No such file", "x"))) is None


def test_a_link_where_there_are_links_and_a_copy_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    link_or_copy(source, tmp_path / "link")
    assert (tmp_path / "link").samefile(source)

    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    link_or_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content"
    assert not (tmp_path / "copy").samefile(source)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_in_the_order_of_the_items(n_jobs: int) -> None:
    assert list(map_in_processes(abs, range(-20, 20), n_jobs, chunksize=3)) == [abs(i) for i in range(-20, 20)]


class Work:
    """Says which process did an item, and what it had built for that."""

    pickled = 0

    def __getstate__(self) -> dict[str, object]:
        Work.pickled += 1
        return {}

    @cached_property
    def built(self) -> bytes:
        return os.urandom(8)

    def __call__(self, item: int) -> tuple[int, bytes]:
        return os.getpid(), self.built


@pytest.mark.slow
def test_processes_get_the_work_once_and_keep_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "pickled", 0)
    done = list(map_in_processes(Work(), range(40), 2, chunksize=2))
    processes = {process for process, _ in done}
    assert Work.pickled <= 2
    assert len(set(done)) == len(processes) <= 2


class Unsendable:
    """Items that a worker reads but cannot hand over, as tensors where /dev/shm is full."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        return lambda: index


@pytest.mark.slow
def test_a_worker_that_cannot_hand_over_what_it_has_read_ends() -> None:
    loader = DataLoader(Unsendable(), batch_size=None, num_workers=1, worker_init_fn=set_up_reader)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        list(loader)


class Late:
    """Images of a reader, or work of a process, that arrives when the process that has sent it is gone."""

    def __init__(self, arriving: Path) -> None:
        self.arriving, self.sender = arriving, os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        write_whole(self.arriving, str(os.getpid()))
        while os.getppid() == self.sender:
            time.sleep(0.01)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return index

    def __call__(self, item: int) -> int:
        return item


def read_late(arriving: Path) -> None:
    context = multiprocessing.get_context("spawn")
    options: dict[str, Any] = {"num_workers": 1, "worker_init_fn": set_up_reader, "multiprocessing_context": context}
    list(DataLoader(Late(arriving), batch_size=None, **options))


def work_late(arriving: Path) -> None:
    list(map_in_processes(Late(arriving), [1, 2], 2))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize("start", [read_late, work_late])
def test_a_process_whose_parent_was_killed_before_it_had_started_ends(start: Any, tmp_path: Path) -> None:
    parent = multiprocessing.get_context("fork").Process(target=start, args=(tmp_path / "arriving",))
    parent.start()
    try:
        _wait(lambda: (tmp_path / "arriving").exists())
    finally:
        parent.kill()
        parent.join()
    child = int((tmp_path / "arriving").read_text())
    _wait(lambda: not is_running(child))


def _wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
