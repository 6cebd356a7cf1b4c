"""A small web server on 127.0.0.1 that knows ranges and can cut connections."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Files(ThreadingHTTPServer):
    """Serves the files under `folder`.

    requests: path and first byte of every request; sent: bytes of bodies. `cut_after`: the connections to come end
    after so many bytes, as many of them as `cuts` says. `ranges`: whether a part of a file may be asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[tuple[str, int]] = []
        self.sent = 0
        self.cut_after, self.cuts, self.ranges = 0, 0, True
        self.hang, self.go_on = False, threading.Event()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Files

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server, path = self.server, self.path.lstrip("/")
        file = server.folder / path
        if not file.is_file():
            self.send_error(404)
            return
        data, first = file.read_bytes(), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges:
            first = int(asked.group(1))
            if first >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
        with server.lock:
            if body:
                server.requests.append((path, first))
            cut = body and server.cuts > 0
            server.cuts -= cut
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", f'"{hash(data)}"')
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        part = data[first : first + server.cut_after] if cut else data[first:]
        for begin in range(0, len(part), 1 << 16):
            chunk = part[begin : begin + (1 << 16)]
            self.wfile.write(chunk)
            with server.lock:
                server.sent += len(chunk)
        if cut and server.hang:
            self.wfile.flush()
            server.go_on.wait(60)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Files]:
    server = Files(folder)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
