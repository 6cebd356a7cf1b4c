"""The page: its images and models, and, where gradio, playwright and Chromium are installed, each control."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

from saicinpainting.inference import page_images
from saicinpainting.inference.edges import grow_hole
from saicinpainting.inference.page import make_page
from saicinpainting.inference.page_actions import Actions
from saicinpainting.inference.page_images import (
    KEPT_SECONDS,
    Photograph,
    hole_of_drawing,
    open_photograph,
    painted_layer,
    write_result,
)
from saicinpainting.inference.page_models import PageModels
from saicinpainting.inference.page_turns import Turns
from saicinpainting.io.extras import ImageExtras
from saicinpainting.utils import InputError
from tests.helpers import ROOT, photo, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def from_phone(path: Path, height: int, width: int) -> np.ndarray:
    """A JPEG that is stored lying and stands upright by its EXIF orientation; its pixels, uint8 (height, width, 3)."""
    lying = Image.fromarray(photo("coffee.png", 400)).resize((height, width))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(path, exif=exif, icc_profile=PROFILE, quality=95)
    with Image.open(path) as stored:
        return np.rot90(np.asarray(stored), -1)


# ---- photographs ---------------------------------------------------------------------------------------------------


def test_a_photograph_of_a_phone_is_upright_and_full_size_its_preview_small(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(page_images, "PREVIEW_SIDE", 60)
    pixels = from_phone(tmp_path / "phone.jpg", 120, 80)
    photograph = open_photograph(tmp_path / "phone.jpg", tmp_path, max_megapixels=1)
    assert (photograph.size, photograph.preview_size) == ((120, 80), (60, 40))
    planes, extras = photograph.read()
    np.testing.assert_array_equal(np.rint(planes.transpose(1, 2, 0) * 255), pixels)
    with Image.open(photograph.preview) as preview:
        small = np.asarray(preview).astype(int)
        assert preview.info["icc_profile"] == PROFILE
    assert np.abs(small - cv2.resize(pixels, (40, 60), interpolation=cv2.INTER_AREA)).mean() < 6
    path, shown = write_result(tmp_path, photograph, pixels, extras)
    assert path.name == "phone_filled.png"
    with Image.open(path) as result, Image.open(shown) as preview:
        np.testing.assert_array_equal(np.asarray(result), pixels)
        assert result.info["icc_profile"] == PROFILE
        assert preview.size == (40, 60)


def test_large_photographs_are_refused_by_their_header(tmp_path: Path, monkeypatch: Any) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(page_images, "decode_image", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=r"^large\.png has 0\.0 megapixels, at most 0\.01 are taken here"):
        open_photograph(tmp_path / "large.png", tmp_path, max_megapixels=0.01)
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match=r"^huge\.png is too large: \d+x\d+ pixels, more than are read at once"):
        open_photograph(tmp_path / "huge.png", tmp_path, max_megapixels=16)
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match=r"^cannot read program\.jpg: it is no image"):
        open_photograph(tmp_path / "program.jpg", tmp_path, max_megapixels=16)
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(InputError, match=r"^cannot read text\.jpg: it is no image"):
        open_photograph(tmp_path / "text.jpg", tmp_path, max_megapixels=1)


def test_a_photograph_that_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    from_phone(tmp_path / "phone.jpg", 60, 40)
    photograph = open_photograph(tmp_path / "phone.jpg", tmp_path, max_megapixels=1)
    (tmp_path / "phone.jpg").unlink()
    with pytest.raises(InputError, match="is gone; load it again"):
        photograph.read()
    with pytest.raises(InputError, match="is gone; load it again"):  # a result to go on from
        open_photograph(tmp_path / "phone.jpg", tmp_path, max_megapixels=1)


def test_old_results_go(tmp_path: Path) -> None:
    given = Photograph(tmp_path / "a.jpg", "a.jpg", (40, 40), tmp_path / "b.jpg", (40, 40))
    files = [file for _ in range(3) for file in write_result(tmp_path, given, photo(size=40), ImageExtras())]
    old, kept = files[:2], files[2:]
    for names, age in ((old, KEPT_SECONDS + 60), (kept, KEPT_SECONDS - 60)):
        for file in names:
            os.utime(file, (time.time() - age,) * 2)
    newest = write_result(tmp_path, given, photo(size=40), ImageExtras())
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {*kept, *newest}
    os.utime(kept[1], (0, 0))  # a photograph's own preview, beside which the result is shown, stays
    write_result(tmp_path, replace(given, preview=kept[1]), photo(size=40), ImageExtras())
    assert kept[1].is_file()


# ---- what is hole --------------------------------------------------------------------------------------------------


def layer(*places: tuple[slice, slice], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """RGBA, half transparent in these places, as at a stroke's edge."""
    pixels = np.zeros((*size, 4), np.uint8)
    for place in places:
        pixels[(*place, 3)] = 90
    return pixels


def test_what_was_painted_is_hole_at_the_size_of_the_photograph() -> None:
    place = (slice(5, 9), slice(10, 20))
    drawing = {"background": None, "layers": [layer(place)], "composite": None}
    hole = hole_of_drawing(drawing, np.zeros((40, 60), bool), (40, 60))
    np.testing.assert_array_equal(hole, layer(place)[..., 3] > 0)
    large = hole_of_drawing(drawing, np.zeros((80, 120), bool), (40, 60))
    np.testing.assert_array_equal(np.argwhere(large).min(axis=0), [10, 20])
    np.testing.assert_array_equal(np.argwhere(large).max(axis=0), [17, 39])


def test_a_mask_counts_in_every_pixel_unless_painted_over_or_erased() -> None:
    uploaded = np.zeros((160, 240), bool)
    uploaded[41:78, 43] = True  # thinner than a pixel of the preview
    uploaded[100:120, 160:200] = True
    shown = painted_layer(uploaded, (40, 60))
    np.testing.assert_array_equal(hole_of_drawing({"layers": [shown]}, uploaded, (40, 60)), uploaded)
    shown[:, 40:] = 0  # erased
    shown[2:6, 30:34, 3] = 255
    hole = hole_of_drawing({"layers": [shown]}, uploaded, (40, 60))
    np.testing.assert_array_equal(hole[36:84, :80], uploaded[36:84, :80])
    assert not hole[96:124, 156:204].any()
    assert hole[8:24, 120:136].mean() > 0.9


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    from_phone(tmp_path / "phone.jpg", 120, 80)
    photograph = open_photograph(tmp_path / "phone.jpg", tmp_path, max_megapixels=1)
    Image.new("L", (120, 80), 255).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png has 120 x 80 pixels, the photograph 80 x 120"):
        photograph.with_mask(tmp_path / "mask.png", max_megapixels=1)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (None, "paint over what is to go"),
        ([layer()], "paint over what is to go"),
        ([layer((slice(3, 4), slice(3, 4)), size=(20, 30))], "painted has another size than the photograph"),
    ],
)
def test_what_is_missing_is_named(layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hole_of_drawing({"layers": layers}, np.zeros((40, 60), bool), (40, 60))


# ---- models --------------------------------------------------------------------------------------------------------


def table(home: Path, **models: int) -> dict[str, str]:
    """The environment in which these models, by their bytes, are published."""
    weights = {name: {"address": f"https://example.org/{name}", "bytes": size} for name, size in models.items()}
    entries = {
        name: {"config": "big-lama", "what": f"what {name} is", "licence": "free", "files": {"models/a.pt": file}}
        for name, file in weights.items()
    }
    home.mkdir(exist_ok=True)
    (home / "models.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return {"LAMA_MODELS": str(home / "models.yaml"), "TORCH_HOME": str(home)}


def test_models_are_loaded_as_they_are_asked_for_and_their_cost_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    for name, value in table(tmp_path, **{"lama-small": 20_000_000, "big": 400_000_000}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "lama" / "big" / "models").mkdir(parents=True)
    (tmp_path / "lama" / "big" / "models" / "a.pt").touch()
    loads: list[Any] = []

    def load(model: Any, refine: bool) -> Any:
        loads.append((model["path"], refine))
        if refine:
            raise InputError("/secret/run: refine=true: it cannot")
        return len(loads)

    models = PageModels("/secret/runs/mine", "last.ckpt", load)
    assert models.choices() == [("mine", "mine"), ("lama-small (downloads 20 MB)", "lama-small"), ("big (here)", "big")]
    assert models.describe("big") == "what big is. Licence: free."
    assert [models.get(name) for name in ("mine", "mine", "big", "mine")] == [1, 1, 2, 3]
    with pytest.raises(InputError, match=r"^mine cannot be refined here; the log of the server says why$"):
        models.get("mine", refine=True)
    assert loads == [
        ("/secret/runs/mine", False),
        ("big", False),
        ("/secret/runs/mine", False),
        ("/secret/runs/mine", True),
    ]
    with pytest.raises(InputError, match=r"there is no model \.\./run"):
        models.get("../run")
    assert [name for _, name in PageModels("big", "best.ckpt", load).choices()] == ["big", "lama-small"]


# ---- in a browser --------------------------------------------------------------------------------------------------


@contextmanager
def served(root: Path, *refiner: str) -> Iterator[str]:
    """A page that serves a small network with seeded weights, and another as if it were published."""
    run, temporary = write_run(root), root / "temporary"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary), **table(root / "home", other=1)}
    (root / "home" / "lama" / "other" / "models").mkdir(parents=True)
    shutil.copy(run / "models" / "best.ckpt", root / "home" / "lama" / "other" / "models" / "a.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "bin" / "demo.py"), f"model.path={run}", f"port={port}", "device=cpu"]
    command += ["refiner.min_side=64", *refiner]  # a coarser scale for a small photograph
    log = (root / "log.txt").open("w")
    process = subprocess.Popen(command, cwd=root, stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        for _ in range(240):
            assert process.poll() is None, (root / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        status = process.wait(30)
        log.close()
    told = (root / "log.txt").read_text()
    assert status == 0, told
    # Gradio leaves an empty file of each upload.
    assert [file for file in temporary.rglob("*") if file.is_file() and file.stat().st_size] == []
    assert "Traceback" not in told
    assert "UserWarning" not in told


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("page"), "refiner.n_iters=2") as address:
        yield address


class Browser:
    """The page as it is used: by a mouse, at its visible labels."""

    def __init__(self, page: Any, folder: Path) -> None:
        self.page, self.folder, self.shots = page, folder, 0
        page.set_default_timeout(60_000)

    def shoot(self, name: str) -> None:
        """LAMA_SCREENSHOTS names a folder to look at them in."""
        self.shots += 1
        folder = Path(os.environ.get("LAMA_SCREENSHOTS") or self.folder)
        size = self.page.viewport_size["width"]
        self.page.screenshot(path=folder / f"{size}_{self.shots:02}_{name}.png", full_page=True, timeout=90_000)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def load(self) -> None:
        self.page.set_input_files("#photograph input[type=file]", str(self.folder / "phone.jpg"))
        self.page.get_by_text("phone.jpg, 480 × 640 pixels").wait_for()
        self.page.locator("#editor canvas").first.wait_for()
        self.page.wait_for_timeout(2000)

    def stroke(self, tool: str, *, start: float, end: float) -> None:
        """Along the middle, from one part of the canvas's width to another."""
        self.page.locator("#editor").scroll_into_view_if_needed()
        self.page.locator(f"#editor button[aria-label='{tool}']").click()
        box = self.page.locator("#editor canvas").first.bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + start * box["width"], y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + end * box["width"], y, steps=12)
        self.page.mouse.up()
        self.page.wait_for_timeout(800)

    def fails(self, message: str) -> None:
        self.button("Fill").click()
        self.is_told(message)

    def is_told(self, message: str) -> None:
        """Nothing is covered by it."""
        self.page.get_by_text(message).first.wait_for()
        self.page.get_by_test_id("toast-close").first.click()
        self.page.wait_for_timeout(500)
        assert not any(error.is_visible() for error in self.page.locator("[data-testid=status-tracker] .error").all())

    def fill(self) -> np.ndarray:
        """The pixels of the file that is downloaded."""
        shown = self.page.locator("#result img").last
        before = shown.get_attribute("src") if shown.is_visible() else ""
        self.button("Fill").click()
        self.page.wait_for_function(
            "before => { const shown = [...document.querySelectorAll('#result img')].pop();"
            " return shown && shown.src && shown.getAttribute('src') != before }",
            arg=before,
        )
        self.page.wait_for_timeout(800)
        with self.page.expect_download() as download:
            self.page.get_by_text("Download PNG").click()
        assert download.value.suggested_filename == "phone_filled.png"
        return np.asarray(Image.open(download.value.path())).astype(int)


@contextmanager
def browsers(address: str, folder: Path, viewport: tuple[int, int]) -> Iterator[Callable[[], Browser]]:
    """Opens the page, each time as another user."""
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)

        def opened() -> Browser:
            context = chromium.new_context(viewport={"width": viewport[0], "height": viewport[1]})
            browser = Browser(context.new_page(), folder)
            browser.page.goto(address)
            return browser

        yield opened
        chromium.close()


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
@pytest.mark.parametrize("viewport", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_each_control_does_what_it_says(address: str, tmp_path: Path, viewport: tuple[int, int]) -> None:
    image = from_phone(tmp_path / "phone.jpg", 640, 480).astype(int)
    mask = np.zeros((640, 480), np.uint8)
    mask[301:337, 200:259] = 255
    Image.fromarray(mask).save(tmp_path / "mask.gif")
    Image.fromarray(mask).resize((48, 64)).save(tmp_path / "small.png")
    with browsers(address, tmp_path, viewport) as opened:
        browser = opened()
        page = browser.page
        page.locator("#photograph input[type=file]").wait_for(state="attached")
        assert page.title() == "LaMa inpainting"
        browser.fails("load a photograph first")
        browser.shoot("empty")
        browser.load()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        # Brush, undo, eraser.
        browser.fails("paint over what is to go")
        browser.stroke("Brush", start=0.4, end=0.6)
        browser.shoot("painted")
        plain = browser.fill()
        browser.shoot("filled")
        browser.stroke("Erase", start=0.52, end=0.7)
        erased = browser.fill()
        page.locator("#editor button[aria-label='Undo']").click()
        page.locator("#editor button[aria-label='Undo']").click()
        page.wait_for_timeout(800)
        browser.fails("paint over what is to go")
        # A mask of another size, the bin, a mask and its edge, the slider.
        masks = page.locator("#buttons input[type=file]").nth(1)
        masks.set_input_files(str(tmp_path / "small.png"))
        browser.is_told("small.png has 48 x 64 pixels, the photograph 480 x 640")
        browser.stroke("Brush", start=0.4, end=0.6)
        page.locator("#editor button[aria-label='Clear canvas']").click()
        page.wait_for_timeout(3000)
        browser.fails("paint over what is to go")
        browser.stroke("Brush", start=0.4, end=0.6)
        np.testing.assert_array_equal(browser.fill(), plain)
        masks.set_input_files(str(tmp_path / "mask.gif"))
        page.wait_for_timeout(3000)
        exact = browser.fill()
        page.get_by_label("number input for Grow the mask").fill("7")
        page.keyboard.press("Tab")
        page.wait_for_timeout(1500)
        page.get_by_label("number input for Feather").fill("3")
        page.keyboard.press("Tab")
        grown = browser.fill()
        page.get_by_label("Match colours").check()
        matched = browser.fill()
        browser.shoot("grown_and_matched")
        box = page.locator("#result").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        browser.shoot("slider_moved")
        assert not page.locator("#result").get_by_label("Download").count()  # of the preview
        # Refined, and the list of models.
        page.get_by_label("Refine").check()
        refined = browser.fill()
        page.get_by_label("Refine").uncheck()
        page.get_by_label("Model").click()
        browser.shoot("models")
        page.get_by_role("option", name="other (here)").click()
        page.get_by_text("other cannot be loaded here").or_(page.get_by_text("what other is")).first.wait_for()
        browser.shoot("other_model")
        browser.button("Go on from here").click()
        page.get_by_text("phone_filled.png, 480 × 640 pixels").wait_for()
        page.wait_for_timeout(2000)
        browser.shoot("going_on")

    def changed(result: np.ndarray) -> np.ndarray:
        assert result.shape == image.shape
        return (result != image).any(axis=2)

    middle = np.zeros((640, 480), bool)
    middle[220:420] = True
    stroke, left = changed(plain), changed(erased)
    assert stroke[middle].sum() > 1000
    assert not stroke[~middle].any()
    assert 0.2 < left.sum() / stroke.sum() < 0.9
    assert not left[~stroke].any()
    for result, hole in ((exact, mask > 0), (grown, grow_hole(mask > 0, 7)), (matched, grow_hole(mask > 0, 7))):
        assert not changed(result)[~hole].any()
        assert changed(result)[hole].mean() > 0.95
    assert (matched != grown).any()
    assert (refined != matched).any()
    assert not changed(refined)[grow_hole(mask > 0, 7) == 0].any()


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
@pytest.mark.parametrize("viewport", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_fill_ends_by_its_button_by_a_reload_and_with_the_server(tmp_path: Path, viewport: tuple[int, int]) -> None:
    from_phone(tmp_path / "phone.jpg", 640, 480)
    with (
        ExitStack() as server,
        browsers(server.enter_context(served(tmp_path, "refiner.n_iters=100000")), tmp_path, viewport) as opened,
    ):
        one, other = opened(), opened()
        for browser in (one, other):
            browser.load()
            browser.stroke("Brush", start=0.4, end=0.6)
        one.page.get_by_label("Refine").check()

        def begin() -> None:
            one.button("Fill").click()
            one.page.get_by_text("processing").wait_for()
            one.page.wait_for_timeout(2000)

        begin()
        one.shoot("filling")
        one.button("Stop").click()
        one.page.get_by_text("Stopped. What you painted is still there.").wait_for()
        one.button("Fill").wait_for()
        one.shoot("stopped")
        assert not one.page.locator("#result").is_visible()
        begin()
        # Who waits may stop too, and begins when the other one leaves.
        other.button("Fill").click()
        other.page.get_by_text("The model is busy").wait_for()
        other.button("Stop").click()
        other.page.get_by_text("Stopped. What you painted is still there.").wait_for()
        other.button("Fill").click()
        other.button("Stop").wait_for()
        one.page.reload()
        other.page.locator("#result img").last.wait_for()
        one.load()
        one.stroke("Brush", start=0.4, end=0.6)
        one.page.get_by_label("Refine").check()
        begin()
        server.close()  # in order


@pytest.mark.browser
@pytest.mark.skipif("gradio" in MISSING, reason="needs gradio")
def test_a_photograph_whose_preview_is_gone_is_not_shown_empty(tmp_path: Path) -> None:
    import gradio

    given = Photograph(tmp_path / "a.png", "a.png", (40, 60), tmp_path / "gone.jpg", (40, 60))
    Image.new("L", (60, 40), 255).save(tmp_path / "mask.png")
    actions = Actions(gradio, cast(Any, None), Turns(), folder=tmp_path, max_megapixels=1)
    for show in (lambda: actions.load_mask(str(tmp_path / "mask.png"), given), lambda: actions.clear(given)):
        with pytest.raises(gradio.Error, match="is gone; load it again"):
            show()


@pytest.mark.browser
@pytest.mark.skipif("gradio" in MISSING, reason="needs gradio")
def test_a_photographs_name_is_shown_as_it_is(tmp_path: Path) -> None:
    import gradio

    Image.new("RGB", (60, 40)).save(tmp_path / "1. _lake_.png")
    actions = Actions(gradio, cast(Any, None), Turns(), folder=tmp_path, max_megapixels=1)
    assert actions.load(str(tmp_path / "1. _lake_.png"))[-1]["value"] == r"1\. \_lake\_\.png, 60 × 40 pixels"


@pytest.mark.browser
@pytest.mark.skipif("gradio" in MISSING, reason="needs gradio")
def test_no_progress_is_shown_on_the_editor(monkeypatch: Any) -> None:
    """It would be asked for its drawing at each step, and stay covered where an answer comes late."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the page sets it
    page = make_page(PageModels("lama-small", "best.ckpt", lambda *_: pytest.fail("it was loaded")))
    (editor,) = [part["id"] for part in page.config["components"] if part["props"].get("elem_id") == "editor"]
    events = [event for event in page.config["dependencies"] if editor in event["outputs"]]
    assert len(events) == 5
    assert not [event for event in events if editor in (event["show_progress_on"] or event["outputs"])]


@pytest.mark.browser
@pytest.mark.skipif("gradio" in MISSING, reason="needs gradio")
def test_other_names_and_other_sites_are_refused(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "rebound.example"}), timeout=20)
    foreign = urllib.request.Request(
        f"{address}/gradio_api/upload", data=b"x", headers={"Origin": "https://evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign, timeout=20)
