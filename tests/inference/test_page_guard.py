"""What the page's server refuses, by requests as its server hands them on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from saicinpainting.inference import page_guard
from saicinpainting.inference.page_guard import RequestGuard


def status(folder: Path, method: str = "GET", *, served: str = "127.0.0.1", **headers: str) -> int:
    """Of the answer; 200 where the page is asked."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    guard = RequestGuard(page, host=served, folder=folder, most_bytes=1000)
    asyncio.run(guard({"type": "http", "method": method, "headers": raw}, None, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost"])
def test_the_page_answers_to_its_own_names(tmp_path: Path, host: str):
    assert status(tmp_path, host=host, origin=f"http://{host}") == 200
    assert status(tmp_path, "POST", host=host, origin=f"http://{host}", content_length="10") == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "[::1", "10.0.0.7"]
)
def test_another_name_is_refused(tmp_path: Path, host: str):
    assert status(tmp_path, host=host) == 400


def test_served_everywhere_it_answers_to_numbers_and_not_to_names_of_others(tmp_path: Path):
    for host in ("10.0.0.7:7860", "[fe80::1]:7860", "localhost"):
        assert status(tmp_path, served="0.0.0.0", host=host) == 200
    assert status(tmp_path, served="0.0.0.0", host="evil.example") == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost:8080", "http://localhost"])
def test_a_request_of_another_site_is_refused(tmp_path: Path, origin: str):
    for method in ("GET", "POST", "OPTIONS"):
        assert status(tmp_path, method, host="localhost:7860", origin=origin, content_length="10") == 403


@pytest.mark.parametrize(
    ("length", "expected"), [("1000", 200), ("1001", 413), ("9" * 5000, 413), ("-1", 411), ("", 411)]
)
def test_what_is_sent_at_once_is_bounded(tmp_path: Path, length: str, expected: int):
    assert status(tmp_path, "POST", host="localhost", content_length=length) == expected


def test_so_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").touch()
    os.truncate(tmp_path / "a" / "large", page_guard.MOST_KEPT_BYTES - 500)
    assert status(tmp_path, "POST", host="localhost", content_length="500") == 200
    assert status(tmp_path, "POST", host="localhost", content_length="501") == 507
    (tmp_path / "a" / "large").unlink()
    monkeypatch.setattr(page_guard, "MOST_KEPT_FILES", 2)
    assert status(tmp_path, "POST", host="localhost", content_length="500") == 200
    (tmp_path / "a" / "small").touch()
    assert status(tmp_path, "POST", host="localhost", content_length="500") == 507
    assert status(tmp_path, host="localhost") == 200  # what is there can be looked at
