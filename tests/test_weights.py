"""Downloads from a server on this machine: whole, missing, cut off, altered."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saicinpainting.utils import InputError
from saicinpainting.weights import fetch_weights, torch_home

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
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "sha256", "reason"),
    [
        ("missing.pth", None, "404"),
        ("cut.pth", None, f"{len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("whole.pth", "0" * 64, "SHA-256"),
    ],
)
def test_failed_download_leaves_no_file_and_says_what_to_do(server, tmp_path, name, sha256, reason):
    path = tmp_path / name
    with pytest.raises(InputError) as error:
        fetch_weights(path, address(server, name), what="ADE20K encoder", sha256=sha256)
    message = str(error.value)
    assert "\n" not in message
    for part in ("ADE20K encoder", address(server, name), reason, str(path)):
        assert part in message
    assert list(tmp_path.iterdir()) == []


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
