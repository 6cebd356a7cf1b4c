"""Folders with links, pipes, devices and names that are no text."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest

from saicinpainting.data.shard_index import expand
from saicinpainting.io.folders import list_files
from saicinpainting.training.log_reports import read_runs
from saicinpainting.utils import InputError


def names(folder: Path) -> list[str]:
    return [os.path.relpath(file, folder) for file in list_files(folder)]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_every_file_is_listed_once_however_many_links_lead_to_its_folder(tmp_path: Path) -> None:
    top = tmp_path / "top"
    touch(top / "b.png", top / "z/c.png", top / "z/.hidden", top / ".git/d.png", tmp_path / "other/e.png")
    for name, target in {"x": ".", "y": ".", "a": "z", "z/up": "..", "m": "../other", "n": "../other"}.items():
        (top / name).symlink_to(target)
    (top / "linked.png").symlink_to("b.png")
    assert names(top) == ["b.png", "linked.png", "m/e.png", "z/c.png"]
    (top / "parent").symlink_to("..")
    assert names(top) == ["b.png", "linked.png", "m/e.png", "z/c.png"]


def test_a_link_may_be_the_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path / "images/a/b.png")
    (tmp_path / "link").symlink_to("images")
    assert names(tmp_path / "link") == ["a/b.png"]


def test_what_is_no_file_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ["a.png"]
    assert "4 left out" in caplog.text
    assert "dangling.png" in caplog.text


def test_names_need_be_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    touch(tmp_path / name, tmp_path / os.fsdecode(b"\xff") / name)
    assert sorted(names(tmp_path), key=len) == [name, os.path.join(os.fsdecode(b"\xff"), name)]


def test_a_disk_that_fails_is_not_taken_for_a_link_to_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png")

    class Entry:
        name, path = "a.png", str(tmp_path / "a.png")

        def is_dir(self) -> bool:
            raise OSError(errno.ESTALE, "Stale file handle", self.path)

    monkeypatch.setattr(os, "scandir", lambda path: [Entry()])
    with pytest.raises(OSError, match=r"Stale file handle: .*a\.png"):
        list_files(tmp_path)


def test_a_folder_that_may_not_be_read_is_left_out_and_the_top_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "a.png", tmp_path / "locked/b.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith(refused):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = "locked"
    assert names(tmp_path) == ["a.png"]
    refused = tmp_path.name
    with pytest.raises(PermissionError):
        list_files(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        list_files(tmp_path / "absent")


def test_shards_and_logs_are_files_too(tmp_path: Path) -> None:
    for name in ("a.tar", "events.out.tfevents.1.host"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "b.tar").symlink_to("nowhere")
    assert stat.S_ISFIFO((tmp_path / "a.tar").stat().st_mode)
    with pytest.raises(InputError, match=r"no shard \*\.tar there"):
        list(expand([str(tmp_path)]))
    touch(tmp_path / "c.tar")
    assert list(expand([str(tmp_path)])) == list(expand([str(tmp_path / "*.tar")])) == [str(tmp_path / "c.tar")]
    with pytest.raises(InputError):
        read_runs(tmp_path)
