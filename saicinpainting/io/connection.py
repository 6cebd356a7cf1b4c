"""Asking a server for a file over HTTP: what it answers, as far as it makes sense, and nothing that takes for ever."""

from __future__ import annotations

import base64
import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from typing import Any
from urllib.parse import unquote

from saicinpainting.io.buckets import BucketObject, is_bucket

TIMEOUT_SECONDS = 30.0
"""How long a server may be silent."""
SLOW_SECONDS = 30.0
SLOW_BYTES = 30_000
"""Fewer in `SLOW_SECONDS` are no download: 1 kB/s."""
SCHEMES = ("http://", "https://")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class TransferError(OSError):
    """The network or the server fails; another try may go well."""


class StalledError(TransferError):
    """Nothing comes any more, or next to nothing."""


def is_address(place: str) -> bool:
    """Whether this is to be fetched, not opened."""
    return place.startswith(SCHEMES)


def is_remote(place: str) -> bool:
    """Whether this is an address, or one of an object in a bucket."""
    return is_address(place) or is_bucket(place)


def without_secrets(address: str) -> str:
    """An address as it may be shown: without user, password, and what follows a ?, a signature say. Paths stay."""
    return re.sub(r"(?s)^(\w+://)(?:[^/?#]*@)?([^?#]*).*", r"\1\2", address)


def text_without_secrets(text: str) -> str:
    """`text` with `without_secrets` of its addresses."""
    return re.sub(r"\w+://\S*", lambda found: without_secrets(found[0]), text)


def settings_without_secrets(value: Any) -> Any:
    """The same nest of mappings and lists with `without_secrets` of every string."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: settings_without_secrets(one) for key, one in value.items()}
    return [settings_without_secrets(one) for one in value] if isinstance(value, (list, tuple)) else value


class Answer:
    """The body of an answer, and what its headers say of it.

    partial: whether it is a part of the file, from byte `begin` on; total: bytes of the whole file, None if unknown.

    Raises:
        TransferError: it is no part and no whole of a file.
        ValueError: it is compressed, though nobody asked for that.
    """

    def __init__(self, response: Any) -> None:
        self._response, self.headers = response, response.headers
        self._since, self._lately = time.monotonic(), 0
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            raise ValueError(f"the server sends the file as {encoding}, though it was asked not to")
        length = self.headers.get("Content-Length")
        if length is not None and not length.strip().isdecimal():
            raise TransferError(f"the server says that the file has {length!r} bytes")
        self._end = None if length is None else int(length)
        self.partial = response.status == http.client.PARTIAL_CONTENT
        self.begin, self.total = self._range() if self.partial else (0, self._end)
        self._come = self.begin
        if response.status not in (None, http.client.OK, http.client.PARTIAL_CONTENT):  # None: a local file
            raise TransferError(f"the server answers with status {response.status}")

    def _range(self) -> tuple[int, int | None]:
        told = self.headers.get("Content-Range", "")
        if found := CONTENT_RANGE.fullmatch(told.strip()):
            first, last = int(found[1]), int(found[2])
            total = None if found[3] == "*" else int(found[3])
            if first <= last and self._end in (None, last - first + 1) and (total is None or last < total):
                self._end = last + 1
                return first, total
        raise TransferError(f"the server sends a part of the file, but says {told!r} of it")

    def read(self, size: int = -1) -> bytes:
        """What has come, without waiting for more; nothing at the end.

        Raises:
            TransferError: the connection ended before all had come.
            StalledError: hardly anything comes.
        """
        try:
            data: bytes = self._response.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransferError(str(error) or type(error).__name__) from error
        self._come += len(data)
        if not data and self._end is not None and self._come < self._end:
            raise TransferError(f"the connection ended after {self._come} of {self._end} bytes")
        self._lately += len(data)
        now = time.monotonic()
        if data and now - self._since > SLOW_SECONDS:
            if self._lately < SLOW_BYTES:
                raise StalledError(f"only {self._lately} bytes came in {now - self._since:.0f} s")
            self._since, self._lately = now, 0
        return data

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


def open_address(address: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Answer:
    """What the server of an `http://` or `https://` address (or a `file://` one) answers, or the store of a bucket.

    Raises:
        TransferError: it does not answer; its cause is an `HTTPError` if it refuses.
        ValueError: this is no address, or `Answer` says so.
    """
    if is_bucket(address):
        try:
            return Answer(BucketObject(address, headers or {}))
        except OSError as error:
            raise TransferError(str(error)) from error
    found = re.fullmatch(r"(https?://|file://)(?:([^\s/?#]*)@)?(\S*)", address)
    if found is None or not address.isprintable():
        raise ValueError("expected an address that begins with http:// or https:// and has no spaces")
    request = urllib.request.Request(found[1] + found[3], headers=dict(headers or {}), method=method)
    if found[2]:  # of this server alone, not of those that it leads to
        name, _, password = (unquote(part) for part in found[2].partition(":"))
        encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    try:
        response = _within(2 * TIMEOUT_SECONDS, request)
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(text_without_secrets(str(error)) or type(error).__name__) from error
    try:
        return Answer(response)
    except BaseException:
        response.close()
        raise


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to where a download may come from; the one of urllib follows to ftp:// too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_address(newurl):
            raise urllib.error.HTTPError(newurl, code, f"it leads to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _within(seconds: float, request: urllib.request.Request) -> Any:
    """The response; a server may send its headers byte by byte, so that no byte's time-out ever ends that."""
    opener = urllib.request.build_opener(_Redirects)
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(opener.open(request, timeout=TIMEOUT_SECONDS))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(seconds)
    except NotDone as error:
        if answer.done():  # the server's own
            raise
        answer.add_done_callback(lambda late: late.exception() or late.result().close())
        raise StalledError(f"no answer within {seconds:.0f} s") from error
