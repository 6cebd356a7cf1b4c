"""Files that appear whole or not at all, second names, work in several processes."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import pytest

from saicinpainting.io.files import link_or_copy, map_in_processes, whole, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_whole(path, "\u00e4")
    assert path.read_bytes() == "\u00e4".encode()
    with pytest.raises(FileNotFoundError), whole(path) as part:
        part.write_bytes((tmp_path / "none").read_bytes())
    assert path.read_bytes() == "\u00e4".encode()
    write_whole(path, b"bytes")
    assert path.read_bytes() == b"bytes"


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


def test_processes_get_the_work_once_and_keep_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "pickled", 0)
    done = list(map_in_processes(Work(), range(40), 2, chunksize=2))
    processes = {process for process, _ in done}
    assert Work.pickled <= 2
    assert len(set(done)) == len(processes) <= 2
