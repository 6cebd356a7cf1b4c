"""Downloads from a server on this machine: whole, missing, cut off, altered."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saicinpainting.io.weights import fetch_weights, torch_home, weights_file
from saicinpainting.utils import InputError
from tests.helpers import ROOT
from tests.server import serving

CONTENT = bytes(range(256)) * 8192  # 2 MiB, more than one chunk


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        if self.path == "/missing.pth":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unannounced.pth":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/cut.pth" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("LAMA_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requested = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def address(server: ThreadingHTTPServer, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


@pytest.mark.parametrize("name", ["whole.pth", "unannounced.pth"])
@pytest.mark.parametrize("digits", [8, 64])
def test_complete_download_is_kept_and_not_repeated(server, tmp_path, name, digits):
    path = tmp_path / "new" / "folder" / name
    checksum = hashlib.sha256(CONTENT).hexdigest().upper()[:digits]
    for _ in range(2):
        assert fetch_weights(path, address(server, name), what="encoder", sha256=checksum) == path
        assert path.read_bytes() == CONTENT
    assert server.requested == [f"/{name}"]
    assert [file for file in path.parent.iterdir() if not file.name.endswith(".lock")] == [path]


@pytest.mark.parametrize(
    ("name", "sha256", "reason"),
    [
        ("missing.pth", None, "404"),
        pytest.param("cut.pth", None, f"{len(CONTENT) // 2} of {len(CONTENT)} bytes", marks=pytest.mark.slow),
        ("whole.pth", "0" * 64, "sha256 .*, expected 000"),
    ],
)
def test_failed_download_leaves_no_file_and_says_what_to_do(server, tmp_path, name, sha256, reason):
    path = tmp_path / name
    with pytest.raises(InputError) as error:
        fetch_weights(path, address(server, name), what="ADE20K encoder", sha256=sha256)
    message = str(error.value)
    assert "\n" not in message
    for part in ("ADE20K encoder", address(server, name), reason, str(path)):
        assert re.search(part, message)
    assert not path.exists()


@pytest.mark.slow  # three seconds, in which it tries again
def test_no_server_and_nowhere_to_write_are_the_same_error(server, tmp_path):
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:1/x"):
        fetch_weights(tmp_path / "x.pth", "http://127.0.0.1:1/x", what="encoder")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="by hand"):
        fetch_weights(tmp_path / "file" / "x.pth", address(server, "whole.pth"), what="encoder")


def test_offline_never_asks_the_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    with pytest.raises(InputError, match=r"LAMA_OFFLINE.*by hand at .*x\.pth"):
        fetch_weights(tmp_path / "x.pth", address(server, "whole.pth"), what="encoder")
    (tmp_path / "x.pth").write_bytes(b"put by hand")
    assert fetch_weights(tmp_path / "x.pth", address(server, "whole.pth"), what="encoder").is_file()
    assert server.requested == []


def test_torch_home_follows_the_environment_as_torch_does(monkeypatch):
    import torch.hub

    for name, value in [("XDG_CACHE_HOME", "/somewhere/cache"), ("TORCH_HOME", "~/weights")]:
        monkeypatch.setenv(name, value)
        assert torch_home() / "hub" == Path(torch.hub.get_dir())
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert torch_home() == Path.home() / ".cache" / "torch"


def test_a_download_that_was_cut_goes_on(monkeypatch, tmp_path):
    monkeypatch.delenv("LAMA_OFFLINE", raising=False)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "x.pth").write_bytes(CONTENT)
    with serving(tmp_path / "server") as files:
        files.cut_after, files.cuts = 700_000, 1
        path = fetch_weights(tmp_path / "x.pth", f"{files.address}/x.pth", what="encoder")
        assert path.read_bytes() == CONTENT
        assert len(files.requests) == 2
        assert files.sent < len(CONTENT) + 700_000


FETCH = "import sys; from saicinpainting.io.weights import fetch_weights; fetch_weights(*sys.argv[1:3], what='encoder')"


def test_processes_that_need_one_file_download_it_once(server, tmp_path):
    arguments = [sys.executable, "-c", FETCH, str(tmp_path / "x.pth"), address(server, "whole.pth")]
    processes = [subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert server.requested == ["/whole.pth"]


def test_a_setting_names_a_file_an_address_or_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "own.pth").write_bytes(b"own")
    assert weights_file(tmp_path / "own.pth", address(server, "whole.pth"), what="vgg") == tmp_path / "own.pth"
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "whole.pth"
    assert weights_file(None, address(server, "whole.pth"), what="vgg") == cached
    assert weights_file(address(server, "unannounced.pth"), "http://127.0.0.1:1/x", what="vgg").read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"whole-00000000\.pth has sha256 .*, expected 00000000"):
        weights_file(address(server, "whole-00000000.pth"), "", what="vgg")
    dated = weights_file(address(server, "whole-20240115.pth"), "", what="vgg")  # a date is no checksum
    assert dated.read_bytes() == CONTENT


def test_a_web_page_is_not_kept_for_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "lama.ckpt").write_bytes(b"\n<!DOCTYPE html><html>Log in</html>")
    with serving(tmp_path / "served") as files:
        for _ in range(2):
            with pytest.raises(InputError, match=r"lama\.ckpt answers with a web page; give the address of the file"):
                weights_file(f"{files.address}/lama.ckpt", "", what="model")
        (tmp_path / "served" / "lama.ckpt").write_bytes(CONTENT)
        assert weights_file(f"{files.address}/lama.ckpt", "", what="model").read_bytes() == CONTENT


def test_files_of_one_name_at_two_addresses_are_two(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    default = weights_file(None, address(server, "whole.pth"), what="vgg")
    other, another, again = (
        weights_file(address(server, name), address(server, "whole.pth"), what="vgg")
        for name in ("a/whole.pth", "b/whole.pth?version=2", "a/whole.pth")
    )
    assert default.name == "whole.pth"
    assert other == again
    assert len({default, other, another}) == 3
    assert all(file.name.endswith("-whole.pth") for file in (other, another))
    assert server.requested == ["/whole.pth", "/a/whole.pth", "/b/whole.pth?version=2"]


def test_an_address_may_bring_its_checksum(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place, checksum = address(server, "whole.pth"), hashlib.sha256(CONTENT).hexdigest()
    for digits in (checksum, checksum[:16].upper()):
        assert weights_file(f"{place}#sha256={digits}", place, what="vgg").read_bytes() == CONTENT
    with pytest.raises(InputError, match=rf"{place} has sha256 {checksum}, expected 00000000"):
        weights_file(f"{place}#sha256={'0' * 64}", place, what="vgg")
    for mark in ("#md5=0123", "#", "#sha256=short"):
        with pytest.raises(InputError, match=rf"vgg: expected {place}#sha256= and 8 to 64 hex.*, got {mark}"):
            weights_file(place + mark, place, what="vgg")
    assert server.requested == ["/whole.pth"] * 3
