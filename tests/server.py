"""Small web servers on 127.0.0.1: one that knows ranges and can cut connections, one that says what it is told."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPMessage, parse_headers
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
        self.query = ""  # what has to follow the ? of every address
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
        server, (path, _, query) = self.server, self.path.lstrip("/").partition("?")
        file = server.folder / path
        if not file.is_file() or query != server.query:
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
            with server.lock:  # before the client has it and asks for the count
                server.sent += len(chunk)
            self.wfile.write(chunk)
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


Script = Callable[[HTTPMessage], Iterable[bytes]]
"""The bytes to answer a request with, status line and headers included."""


def answer(status: str, headers: dict[str, object], body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class Scripted(socketserver.ThreadingTCPServer):
    """Answers the requests in turn by its scripts, the last one again and again; `asked`: their headers."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, *scripts: Script | bytes) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptHandler)
        self.scripts = list(scripts)
        self.asked: list[HTTPMessage] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _ScriptHandler(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        if not self.rfile.readline():
            return
        headers = parse_headers(self.rfile)
        self.server.asked.append(headers)
        script = self.server.scripts[min(len(self.server.asked), len(self.server.scripts)) - 1]
        with suppress(OSError):  # the client has gone
            for chunk in [script] if isinstance(script, bytes) else script(headers):
                self.wfile.write(chunk)


@contextmanager
def answering(*scripts: Script | bytes) -> Iterator[Scripted]:
    server = Scripted(*scripts)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
