"""The page: what a drawing means, and, where gradio, playwright and Chromium are installed, a real brush stroke."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saicinpainting.inference.page import KEPT_SECONDS, PLAIN, REFINED, _write_result, split_drawing
from saicinpainting.utils import InputError
from tests.helpers import ROOT, photo, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]


def drawing(*strokes: slice) -> dict[str, Any]:
    layer = np.zeros((40, 60, 4), np.uint8)
    for stroke in strokes:
        layer[stroke, 10:20, 3] = 90  # half transparent, at a stroke's edge
    background = np.dstack([photo("coffee.png", 60)[:40], np.full((40, 60), 255, np.uint8)])
    return {"background": background, "layers": [layer], "composite": None}


def test_what_was_painted_is_hole() -> None:
    photograph, mask = split_drawing(drawing(slice(5, 9), slice(20, 22)), max_megapixels=1)
    np.testing.assert_array_equal(photograph, photo("coffee.png", 60)[:40])
    assert sorted(set(np.nonzero(mask)[0])) == [5, 6, 7, 8, 20, 21]
    assert mask.sum() == 6 * 10


def test_transparent_parts_are_white_and_opaque_ones_as_they_were() -> None:
    given = drawing(slice(5, 9))
    shown = photo("coffee.png", 60)[:40].copy()
    given["background"][10:20] = 0  # what browsers make of transparent pixels
    given["background"][20:30] = (100, 0, 255, 51)
    photograph, _ = split_drawing(given, max_megapixels=1)
    shown[10:20], shown[20:30] = 255, (224, 204, 255)
    np.testing.assert_array_equal(photograph, shown)
    given["background"] = shown
    np.testing.assert_array_equal(split_drawing(given, max_megapixels=1)[0], shown)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "load a photograph first"),
        ({"background": None, "layers": []}, "load a photograph first"),
        (drawing(), "paint what is to be filled"),
    ],
)
def test_what_is_missing_is_named(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_drawing(given, max_megapixels=1)


def test_large_photographs_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 0\.0 megapixels, at most 0\.002 are taken here"):
        split_drawing(drawing(slice(5, 9)), max_megapixels=0.002)


def test_paint_of_another_size_is_said_to_be() -> None:
    given = drawing(slice(5, 9))
    given["layers"].append(np.zeros((20, 30, 4), np.uint8))  # nothing on it
    split_drawing(given, max_megapixels=1)
    given["layers"][1][3, 4, 3] = 255
    with pytest.raises(InputError, match="painted has 30 x 20 pixels, the photograph 60 x 40; load"):
        split_drawing(given, max_megapixels=1)


def test_old_results_go(tmp_path: Path) -> None:
    old, recent, new = (_write_result(tmp_path, photo("coffee.png", 60)) for _ in range(3))
    for file, age in ((old, KEPT_SECONDS + 60), (recent, KEPT_SECONDS - 60)):
        os.utime(file, (time.time() - age,) * 2)
    newest = _write_result(tmp_path, photo("coffee.png", 60))
    assert set(tmp_path.iterdir()) == {recent, new, newest}


# ---- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A page that serves a small network with seeded weights."""
    run = write_run(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "bin" / "demo.py"), f"model.path={run}", f"port={port}", "device=cpu"]
    command += ["refiner.n_iters=2", "refiner.min_side=64"]  # a coarser scale for a small photograph
    log = (tmp_path / "log.txt").open("w")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()
    assert [file for file in temporary.rglob("*") if file.is_file()] == []


def _fill(page: Any, mode: str, *, before: str = "") -> tuple[str, np.ndarray]:
    """The link and the pixels of the result in `mode`; before: the link that was there."""
    page.get_by_label(mode, exact=True).check()
    page.get_by_role("button", name="Fill", exact=True).click()
    link = page.locator(f"a[download*=filled]:not([href='{before}'])").first
    link.wait_for(timeout=60_000)
    address = link.get_attribute("href")
    data = urllib.request.urlopen(address, timeout=20).read()
    return address, np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_a_brush_stroke_is_filled_and_nothing_else(address: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

    picture = tmp_path / "coffee.png"
    Image.fromarray(photo("coffee.png", 256)).save(picture)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(address)
        page.get_by_role("button", name="Fill", exact=True).click()
        page.wait_for_selector("text=load a photograph first")
        page.set_input_files("input[type=file]", str(picture))
        page.wait_for_timeout(3000)
        box = page.locator("canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - 40, y)
        page.mouse.down()
        for step in range(9):
            page.mouse.move(x - 40 + 10 * step, y)
        page.mouse.up()
        page.wait_for_timeout(1000)
        link, plain = _fill(page, PLAIN)
        _, refined = _fill(page, REFINED, before=link)
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert "Traceback" not in page.content()
        browser.close()
    before = photo("coffee.png", 256).astype(int)
    # The stroke goes across the middle, 80 pixels of the screen long, about 70 of the photograph, and 60 thick.
    around, within = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    around[128 - 40 : 128 + 40, 128 - 75 : 128 + 75] = True
    within[128 - 15 : 128 + 15, 128 - 30 : 128 + 30] = True
    for after in (plain, refined):
        assert after.shape == before.shape
        changed = (after != before).any(axis=2)
        assert not changed[~around].any()
        assert changed[within].mean() > 0.9
    assert (plain != refined).any()
