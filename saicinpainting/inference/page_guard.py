"""What the page's server refuses before gradio sees it: requests of other sites, and more than it has room for."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")
MOST_KEPT_BYTES, MOST_KEPT_FILES = 4 << 30, 4000
"""Of all that was uploaded and made, until it goes after an hour."""


class RequestGuard:
    """ASGI middleware.

    Requests have to name the page's own host, or a site of another name, open in the same browser, could lead its own
    name here; what a site of another origin sends is refused.

    Args:
        app: answers what is not refused.
        host: where the page is served. Of `0.0.0.0` any number of an address is the page's own, and the machine's name.
        folder: of all files.
        most_bytes: of a request.
    """

    def __init__(self, app: Any, *, host: str, folder: Path, most_bytes: int) -> None:
        self._app, self._folder, self._most_bytes = app, folder, most_bytes
        self._names = {*LOOPBACK, host, *((socket.gethostname(), socket.getfqdn()) if host in EVERYWHERE else ())}
        self._everywhere = host in EVERYWHERE

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        refusal = self._refusal(scope["method"], headers) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, reason = refusal
            plain = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, method: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(_name_in(host)):
            return 400, "another name than the page's own"
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "a request of another site"
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "a request of unknown length"
        if int(length[:18]) > self._most_bytes:
            return 413, f"more than {self._most_bytes >> 20} MB at once"
        sizes = list(self._sizes())
        if len(sizes) >= MOST_KEPT_FILES or sum(sizes) + int(length) > MOST_KEPT_BYTES:
            return 507, "too many images are here already; they go after an hour"
        return None

    def _is_own(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._everywhere

    def _sizes(self) -> Iterator[int]:
        for file in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it went in the meantime
                state = file.stat()
                yield state.st_size if stat.S_ISREG(state.st_mode) else 0


def _name_in(host: str) -> str:
    """Of a header `Host`, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half of an IPv6 address
        return ""
