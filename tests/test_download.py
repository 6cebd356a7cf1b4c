"""Downloads that are cut off, changed on the way, or from servers that know no ranges."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from saicinpainting import download
from saicinpainting.download import Checksum, fetch, require_space
from saicinpainting.utils import InputError
from tests.server import serving

DATA = np.random.RandomState(0).bytes(300_000)
SUM = Checksum("md5", hashlib.md5(DATA).hexdigest())


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar").write_bytes(DATA)
    with serving(tmp_path / "served") as server:
        yield server


def get(server, path: Path, **settings) -> Path:
    return fetch(f"{server.address}/a.tar", path, **{"what": "the archive", "checksum": SUM, **settings})


def test_a_cut_connection_is_gone_on_with(server, tmp_path):
    server.cuts, server.cut_after = 3, 70_000
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    assert [first for _, first in server.requests] == [0, 70_000, 140_000, 210_000]
    assert server.sent == len(DATA)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.tar"]


def test_attempts_count_from_where_the_last_bytes_came(server, tmp_path):
    server.cuts, server.cut_after = 29, 10_000
    assert get(server, tmp_path / "a.tar", attempts=2).read_bytes() == DATA
    assert server.sent == len(DATA)


@pytest.mark.parametrize("attempts", [1, 3])
def test_connections_that_bring_nothing_are_counted(server, tmp_path, attempts):
    server.cuts, server.cut_after = 100, 0
    with pytest.raises(InputError, match=r"ended after 0 of 300000"):
        get(server, tmp_path / "a.tar", attempts=attempts)
    assert len(server.requests) == attempts


def test_shards_wait_minutes_for_their_server(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:1/x"):
        fetch("http://127.0.0.1:1/x", tmp_path / "x", what="x", attempts=download.PATIENT_ATTEMPTS)
    assert 180 < sum(pauses) < 300
    assert max(pauses) == download.LONGEST_PAUSE_SECONDS


def test_what_has_come_is_kept_for_the_next_start(server, tmp_path):
    server.cuts, server.cut_after = 1, 100_000
    with pytest.raises(InputError, match=r"the archive: cannot download .*ended after 100000 of 300000.*are kept"):
        get(server, tmp_path / "a.tar", attempts=1)
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    server.cuts, server.cut_after = 1, 100_000
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    assert server.sent == len(DATA) + 100_000


def test_all_has_come_but_the_name(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(DATA)
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    assert server.sent == 0


def test_a_wrong_file_is_refused_and_forgotten(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"something else")
    with pytest.raises(InputError, match=rf"has md5 .*, expected {SUM.hexadecimal}"):
        get(server, tmp_path / "a.tar")
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    with pytest.raises(InputError, match=r"the file there has 300000 bytes, expected 5"):
        get(server, tmp_path / "b.tar", size=5)


def test_an_address_that_does_not_exist_is_not_tried_again(server, tmp_path):
    with pytest.raises(InputError, match=r"cannot download .*/b\.tar \(HTTP Error 404"):
        fetch(f"{server.address}/b.tar", tmp_path / "b.tar", what="b")
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:1/x"):
        fetch("http://127.0.0.1:1/x", tmp_path / "x", what="x")


def test_too_small_a_disk_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "free_space", lambda _: 3_000_000_000)
    require_space(tmp_path / "new" / "folder", 2_000_000_000, what="a")
    with pytest.raises(InputError, match=r"a needs 5\.0 GB in .*new/folder, the disk has 3\.0 GB left"):
        require_space(tmp_path / "new" / "folder", 5_000_000_000, what="a")
