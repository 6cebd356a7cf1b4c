"""Downloads that are cut off, changed on the way, or from servers that know no ranges."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from saicinpainting.io import connection, download
from saicinpainting.io.download import Checksum, fetch, require_space
from saicinpainting.utils import InputError
from tests.server import Scripted, answer, answering, serving

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


# ---- versions ------------------------------------------------------------------------------------------------------

OLD, NEW = DATA, np.random.RandomState(1).bytes(len(DATA))
HALF = len(DATA) // 2


def whole(data: bytes, sent: int | None = None, **headers: object) -> bytes:
    """An answer of 200 that breaks off after `sent` bytes."""
    return answer("200 OK", {"Content-Length": len(data), **headers}, data[:sent])


def rest(data: bytes, first: int = HALF, *, told: object = None, **headers: object) -> bytes:
    """An answer of 206; told: another Content-Range than that of the bytes."""
    says = f"bytes {first}-{len(data) - 1}/{len(data)}" if told is None else told
    sizes = {"Content-Length": len(data) - first, "Content-Range": says}
    return answer("206 Partial Content", {**sizes, **headers}, data[first:])


def fetched(server: Scripted, folder: Path, **settings) -> bytes:
    path = fetch(f"{server.address}/a.bin", folder / "a.bin", **{"what": "a file", "progress": False, **settings})
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["a.bin"]
    return path.read_bytes()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
LATER = "Thu, 22 Oct 2015 07:28:00 GMT"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("marks", [{"ETag": '"1"'}, {"Last-Modified": DATE}, {"ETag": '"1"', "Last-Modified": DATE}])
def test_the_rest_of_the_same_version_is_asked_for(tmp_path, marks):
    with answering(whole(OLD, HALF, **marks), rest(OLD, **marks)) as server:
        assert fetched(server, tmp_path) == OLD
    assert server.asked[1]["Range"] == f"bytes={HALF}-"
    assert server.asked[1]["If-Range"] == next(iter(marks.values()))
    assert server.asked[0]["Range"] is None
    assert {headers["Accept-Encoding"] for headers in server.asked} == {"identity"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        ({"ETag": '"1"'}, {"ETag": 'W/"1"'}),
        ({"ETag": '"1"'}, {}),
        ({"ETag": '"1"'}, {"Last-Modified": DATE}),
        ({"Last-Modified": DATE}, {"Last-Modified": LATER}),
    ],
)
def test_the_rest_of_another_version_is_not_taken(tmp_path, first, then):
    """From servers that send it although If-Range says what it has to belong to."""
    with answering(whole(OLD, HALF, **first), rest(NEW, **then), whole(NEW, **then)) as server:
        assert fetched(server, tmp_path) == NEW
    assert server.asked[1]["Range"]
    assert server.asked[2]["Range"] is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("marks", [{}, {"ETag": 'W/"1"'}, {"ETag": 'w/"1"', "Last-Modified": DATE}])
def test_nothing_is_put_together_that_no_one_vouches_for(tmp_path, marks):
    with answering(whole(OLD, HALF, **marks), whole(NEW, **marks)) as server:
        assert fetched(server, tmp_path) == NEW
    assert server.asked[1]["Range"] is None


@pytest.mark.usefixtures("quick")
def test_a_checksum_vouches(tmp_path):
    with answering(whole(OLD, HALF), rest(OLD)) as server:
        assert fetched(server, tmp_path, checksum=SUM) == OLD
    with answering(whole(OLD, HALF), rest(NEW)) as server, pytest.raises(InputError, match=r"has md5 .*, expected"):
        fetched(server, tmp_path / "other", checksum=SUM)
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("size", [HALF + 1000, 2 * len(DATA)])
def test_another_size_is_another_version(tmp_path, size):
    other, marks = (NEW + NEW)[:size], {"ETag": '"1"'}
    with answering(whole(OLD, HALF, **marks), rest(other, **marks), whole(other, **marks)) as server:
        assert fetched(server, tmp_path) == other


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "told",
    [
        f"bytes {HALF + 1}-{len(DATA) - 1}/{len(DATA)}",
        f"bytes {HALF - 1}-{len(DATA) - 1}/{len(DATA)}",
        f"bytes {HALF}-{len(DATA)}/{len(DATA) + 1}",
        f"bytes {HALF}-{len(DATA) - 1}/{len(DATA) - 1}",
        f"bytes {HALF}-{len(DATA) - 2}/{len(DATA)}",
        f"bytes */{len(DATA)}",
        f"bytes={HALF}-{len(DATA) - 1}/{len(DATA)}",
        "",
    ],
)
@pytest.mark.parametrize("checksum", [None, SUM])
def test_a_content_range_has_to_fit(tmp_path, told, checksum):
    marks = {"ETag": '"1"'}
    with answering(whole(OLD, HALF, **marks), rest(OLD, told=told, **marks), whole(OLD, **marks)) as server:
        assert fetched(server, tmp_path, checksum=checksum) == OLD
    assert len(server.asked) == 3


@pytest.mark.usefixtures("quick")
def test_a_part_that_nobody_asked_for_is_not_the_file(tmp_path):
    with answering(rest(OLD)) as server, pytest.raises(InputError, match="another part of it"):
        fetched(server, tmp_path / "a")
    with answering(rest(OLD, told="")) as server, pytest.raises(InputError, match="sends a part of the file"):
        fetched(server, tmp_path / "b")
    first = answer("206 Partial", {"Content-Range": f"bytes 0-99/{len(OLD)}", "Content-Length": 100}, OLD[:100])
    with answering(first, whole(OLD)) as server:
        assert fetched(server, tmp_path / "c") == OLD
    unknown = answer("206 Partial", {"Content-Range": "bytes 0-99/*", "Content-Length": 100}, OLD[:100])
    with answering(unknown) as server, pytest.raises(InputError, match="does not tell how large"):
        fetched(server, tmp_path / "d")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "br"])
def test_what_comes_compressed_is_not_the_file(tmp_path, encoding):
    packed = gzip.compress(OLD)
    with (
        answering(whole(packed, **{"Content-Encoding": encoding})) as server,
        pytest.raises(InputError, match=rf"sends the file as {encoding}, though it was asked not to"),
    ):
        fetched(server, tmp_path)
    assert len(server.asked) == 1
    assert not list(tmp_path.iterdir())


def chunked(data: bytes, *, end: bool = True) -> bytes:
    pieces = [b"%x\r\n%b\r\n" % (len(data[i : i + 50_000]), data[i : i + 50_000]) for i in range(0, len(data), 50_000)]
    return answer("200 OK", {"Transfer-Encoding": "chunked"}, b"".join(pieces) + (b"0\r\n\r\n" if end else b""))


@pytest.mark.usefixtures("quick")
def test_a_file_of_unknown_size_ends_where_its_chunks_end(tmp_path):
    with answering(chunked(OLD, end=False), chunked(OLD)) as server:
        assert fetched(server, tmp_path) == OLD
    assert len(server.asked) == 2


@pytest.mark.usefixtures("quick")
def test_more_or_fewer_bytes_than_there_should_be_are_not_the_file(tmp_path):
    with answering(chunked(OLD + b"more")) as server, pytest.raises(InputError, match="more than 300000 bytes come"):
        fetched(server, tmp_path / "a", size=len(OLD))
    with answering(chunked(OLD[:-1])) as server, pytest.raises(InputError, match="ended after 299999 of 300000"):
        fetched(server, tmp_path / "b", size=len(OLD))
    with answering(whole(OLD, -1)) as server, pytest.raises(InputError, match="ended after 299999 of 300000"):
        fetched(server, tmp_path / "c")


@pytest.mark.usefixtures("quick")
def test_what_is_longer_than_the_file_is_begun_anew(tmp_path):
    (tmp_path / "a.bin.part").write_bytes(OLD + b"more")
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"header": "ETag", "validator": '"1"', "total": len(OLD)}))
    with answering(whole(OLD)) as server:
        assert fetched(server, tmp_path) == OLD
    assert server.asked[0]["Range"] is None


@pytest.mark.usefixtures("quick")
def test_a_server_that_has_no_rest_of_it_sends_all(tmp_path):
    marks, shorter = {"ETag": '"1"'}, answer("416 Range Not Satisfiable", {"Content-Range": "bytes */100"})
    with answering(whole(OLD, HALF, **marks), shorter, whole(NEW[:100])) as server:
        assert fetched(server, tmp_path) == NEW[:100]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff\xfe",
        b'"1"',
        b"[1]",
        b"{}",
        b'{"header": "ETag", "validator": "\\n1", "total": 300000}',
        b'{"header": "ETag", "validator": "\\u4e2d", "total": 300000}',
        b'{"header": "Host", "validator": "x", "total": 300000}',
        b'{"header": "ETag", "validator": null, "total": 300000}',
        b'{"header": "ETag", "validator": "1", "total": "many"}',
    ],
)
def test_a_damaged_note_is_as_good_as_none(tmp_path, note):
    (tmp_path / "a.bin.part").write_bytes(NEW[:HALF])
    (tmp_path / "a.bin.part.json").write_bytes(note)
    with answering(whole(OLD)) as server:
        assert fetched(server, tmp_path) == OLD
    assert server.asked[0]["Range"] is None


# ---- connections that bring nothing --------------------------------------------------------------------------------


def slowly(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]
        time.sleep(0.01)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_trickle_is_no_download(tmp_path, monkeypatch, part):
    """Every byte comes in time, and the end never."""
    monkeypatch.setattr(connection, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(download, "LONGEST_PAUSE_SECONDS", 0.0)

    def trickle(_: object) -> Iterator[bytes]:
        head = whole(OLD, 0)
        yield head[: 20 if part == "headers" else None]
        yield from slowly(head[20:] + OLD)

    with answering(trickle) as server, pytest.raises(InputError, match=r"only \d+ bytes came in|no answer within"):
        fetched(server, tmp_path, attempts=2)
    assert len(server.asked) == 2


def test_a_slow_end_of_a_quick_download_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(connection, "SLOW_BYTES", 1000)

    def ends_slowly(_: object) -> Iterator[bytes]:
        yield whole(OLD, 0)
        for first in range(0, len(OLD), 10_000):
            time.sleep(0.02)
            yield OLD[first : first + 10_000]

    with answering(ends_slowly) as server:
        assert fetched(server, tmp_path, attempts=1) == OLD


# ---- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["ftp://127.0.0.1:1/x?key=hidden", "file:///etc/hostname", "data:,x", "gopher://x"])
def test_no_redirect_leads_away_from_http(tmp_path, place):
    with (
        answering(answer("302 Found", {"Location": place})) as server,
        pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:\d+/a\.bin \(HTTP Error 302") as error,
    ):
        fetched(server, tmp_path)
    assert len(server.asked) == 1
    assert "hidden" not in str(error.value)


def test_a_redirect_is_followed_and_gets_no_password(tmp_path):
    with answering(whole(OLD)) as there, answering(answer("302 Found", {"Location": f"{there.address}/x?y"})) as server:
        address = server.address.replace("://", "://me:pass%20word@")
        fetch(f"{address}/a.bin", tmp_path / "a.bin", what="a file")
    assert (tmp_path / "a.bin").read_bytes() == OLD
    assert server.asked[0]["Authorization"] == "Basic " + base64.b64encode(b"me:pass word").decode()
    assert there.asked[0]["Authorization"] is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "script",
    [
        answer("404 Not Found", {}),
        answer("302 Found", {"Location": "/b?token=hidden1"}),
        answer("500 Error", {}),
        b"nonsense\r\n\r\n",
        whole(OLD, HALF, ETag='"1"'),
        whole(OLD),
    ],
)
def test_secrets_of_an_address_are_not_told(tmp_path, caplog, capsys, script):
    with answering(script) as server:
        address = (
            server.address.replace("://", "://hidden2:hidden3@") + "/a.bin?token=hidden4&signature=hidden5#hidden6"
        )
        try:
            fetch(address, tmp_path / "a.bin", what="a file", size=len(OLD), checksum=Checksum("md5", "0"), attempts=2)
        except InputError as error:
            told = str(error)
    notes = b"".join(file.read_bytes() for file in tmp_path.glob("*.json"))
    assert f"{server.address}/a.bin" in told
    for text in (told, caplog.text, *capsys.readouterr(), notes.decode(), *map(str, tmp_path.iterdir())):
        assert "hidden" not in text


@pytest.mark.parametrize("address", ["http://me:hidden@host:port:x/a", "http://host/a b?hidden", "ftp://me:hidden@x/a"])
def test_what_is_no_address_is_told_at_once(tmp_path, address):
    with pytest.raises(InputError, match="a file: cannot download") as error:
        fetch(address, tmp_path / "a.bin", what="a file", attempts=1)
    assert "hidden" not in str(error.value)


def test_a_file_of_this_machine_may_be_named_as_an_address(tmp_path):
    (tmp_path / "there.bin").write_bytes(OLD)
    fetch((tmp_path / "there.bin").as_uri(), tmp_path / "a.bin", what="a file")
    assert (tmp_path / "a.bin").read_bytes() == OLD


@pytest.mark.parametrize("length", ["many", "-1", "1, 2"])
def test_a_size_that_makes_no_sense_is_none(length):
    with answering(answer("200 OK", {"Content-Length": length})) as server:
        assert download.size_at(f"{server.address}/a.bin") is None


# ---- disks ---------------------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000_000))
    require_space(tmp_path / "new" / "folder", 2_000_000_000, what="a")
    with pytest.raises(InputError, match=r"a needs 5\.0 GB in .*new/folder, the disk has 3\.0 GB left"):
        require_space(tmp_path / "new" / "folder", 5_000_000_000, what="a")


def test_what_the_disk_refuses_is_no_fault_of_the_server(server, tmp_path):
    """It is told at once; what came before is kept and gone on with."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*a\.tar\.part"):
            get(server, tmp_path / "a.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(server.requests) == 1
    assert (tmp_path / "a.tar.part").stat().st_size == 100_000
    assert get(server, tmp_path / "a.tar").read_bytes() == DATA
    assert server.requests[1][1] == 100_000
