"""A page to try models in a browser: load a photograph, paint over what is to go, fill. Needs gradio, an extra."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saicinpainting.inference.page_actions import Actions
from saicinpainting.inference.page_editor import make_editor
from saicinpainting.inference.page_guard import LOOPBACK, RequestGuard
from saicinpainting.inference.page_images import KEPT_SECONDS, PAINT, PREVIEW_SIDE
from saicinpainting.inference.page_models import PageModels
from saicinpainting.inference.page_turns import Turns
from saicinpainting.io.folders import IMAGE_SUFFIXES
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
MAX_UPLOAD_MB = 30
MAX_MEGAPIXELS = 16.0
LONGEST_GROWTH = 64
MOST_WAITING = 8
GRACE = 10.0
"""Seconds that a fill has to stop when the server ends."""
ENDINGS = list(IMAGE_SUFFIXES)
HOW_TO = """### How it works

1. **Load** a photograph. It stays in its full size; turned ones are stood upright.
2. **Paint** over what is to go, generously: rims and shadows too. Or load a mask, white where to fill.
3. **Fill.** What is outside of what you painted stays as it is, in every bit.
"""
CSS = """
.gradio-container {width: 100% !important; max-width: 1280px !important; margin: 0 auto !important}
#head h1 {margin: 0.4em 0 0; font-size: 1.5rem}
#head p {margin: 0 0 0.3em; opacity: 0.75}
#photograph {min-height: 16rem}
#how {padding: 0.25rem 1rem 0.75rem}
#working {min-height: 4.5rem}
[data-testid="status-tracker"]:has(> .error) {display: none !important}  /* errors are told at the top */
#what {background: var(--block-background-fill)}
#what p, .about p {font-size: 0.875rem; opacity: 0.75}
@media (max-width: 640px) {
  .gradio-container {padding: 0.5rem !important}
  #buttons {flex-wrap: nowrap; gap: 0.4rem}
  #buttons button {padding: 0.5rem 0.3rem; font-size: 0.85rem; min-width: 0}
}
"""
SCROLL = "() => document.querySelector('#result').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


def make_page(models: PageModels, *, max_megapixels: float = MAX_MEGAPIXELS) -> Any:
    """The gradio page, to be shown by `launch_page`."""
    gradio = _gradio()
    folder = tempfile.TemporaryDirectory(prefix="lama-")
    os.environ["GRADIO_TEMP_DIR"] = str(Path(folder.name) / "gradio")  # uploads count, and go, with the rest
    # Delete the copies that gradio keeps: old ones hourly, all on exit.
    with gradio.Blocks(
        title="LaMa inpainting", delete_cache=(KEPT_SECONDS, KEPT_SECONDS), analytics_enabled=False
    ) as page:
        page.lama_folder, page.lama_turns = folder, Turns()  # as long as the page
        actions = Actions(gradio, models, page.lama_turns, Path(folder.name), max_megapixels)
        _lay_out(gradio, actions, models)
        page.unload(_with_session(gradio, actions.leave))
    return page


def launch_page(page: Any, *, host: str, port: int) -> None:
    """Serve the page until it is interrupted.

    On this machine only, unless `host` is another: then whoever reaches it may use it, and a warning says so. What is
    refused: see `RequestGuard`.
    """
    from starlette.middleware import Middleware

    gradio = _gradio()
    # One file at once comes from the page's controls; what surrounds it takes a few hundred bytes.
    guard = {"host": host, "folder": Path(page.lama_folder.name), "most_bytes": (MAX_UPLOAD_MB + 1) << 20}
    if host not in LOOPBACK:
        LOGGER.warning(
            "host=%s: whoever reaches this machine may use the page, without a password and unencrypted; for yourself, "
            "leave host out and use an SSH tunnel",
            host,
        )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio's requests to itself
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nobody else's server
    theme = gradio.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{MAX_UPLOAD_MB}mb",
            theme=theme,
            css=CSS,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(RequestGuard, **guard)]},
        )
    except OSError as error:
        raise InputError(
            f"port={port}: the page cannot be served there, another may be; set port={port + 1}"
        ) from error
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    ended = page.lama_turns.close(GRACE)
    page.close(verbose=False)
    if not ended:  # Python cannot end a thread that computes, and would crash
        page.lama_folder.cleanup()
        os._exit(128 + signal.SIGTERM)


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise InputError("the page needs gradio: pip install 'gradio>=6.31'") from None
    return gradio


def _lay_out(gradio: Any, actions: Actions, models: PageModels) -> None:
    """Left the photograph and what is done to it, right the result; below each other on a phone."""
    photograph, result = gradio.State(), gradio.State()
    gradio.Markdown("# LaMa inpainting\nLoad a photograph, paint over what is to go, fill.", elem_id="head")
    with gradio.Row(equal_height=False):
        with gradio.Column(min_width=340):
            upload = gradio.File(
                label="Photograph: drop it here, or tap to choose", file_types=ENDINGS, elem_id="photograph"
            )
            editor = make_editor(
                gradio,
                longest_side=PREVIEW_SIDE,
                type="numpy",
                format="png",
                label="Paint",  # more does not fit beside the tools on a phone
                elem_id="editor",
                height="65vh",
                sources=(),
                brush=gradio.Brush(colors=[(_css_colour(), PAINT[3] / 255)], color_mode="fixed", default_size="auto"),
                eraser=gradio.Eraser(default_size="auto"),
                transforms=(),
                layers=False,
                visible=False,
            )
            about = gradio.Markdown(visible=False, elem_classes="about")
            with gradio.Row(visible=False, elem_id="buttons") as buttons:
                another = gradio.UploadButton("Another photograph", file_types=ENDINGS, size="sm", min_width=90)
                mask = gradio.UploadButton("Mask from a file", file_types=ENDINGS, size="sm", min_width=90)
            button = gradio.Button("Fill", variant="primary", size="lg")
            stop = gradio.Button("Stop", variant="stop", size="lg", visible=False)
            working = gradio.Markdown(visible=False, elem_id="working")
        with gradio.Column(min_width=340):
            how = gradio.Markdown(HOW_TO, elem_id="how", container=True)
            slider = gradio.ImageSlider(
                type="filepath",
                label="Before and after",
                elem_id="result",
                height="65vh",
                buttons=["fullscreen"],  # its download would be the preview
                interactive=False,
                visible=False,
            )
            outcome = gradio.Markdown(visible=False, elem_classes="about")
            with gradio.Row():
                download = gradio.DownloadButton(
                    "Download PNG", variant="primary", size="md", visible=False, min_width=90
                )
                again = gradio.Button("Go on from here", size="md", visible=False, min_width=90)
    with gradio.Row(equal_height=False):
        with gradio.Column(min_width=340), gradio.Group():
            name = gradio.Dropdown(models.choices(), value=models.first, label="Model", filterable=False)
            what = gradio.Markdown(models.describe(models.first), elem_id="what", padding=True)
            refine = gradio.Checkbox(label="Refine", info="sharper in large holes; takes many times as long")
        with gradio.Column(min_width=340), gradio.Group():
            grow = gradio.Slider(
                0, LONGEST_GROWTH, 0, step=1, label="Grow the mask", info="by so many pixels, over rims and shadows"
            )
            feather = gradio.Slider(
                0,
                1,
                0,
                step=1,
                interactive=False,
                label="Feather",
                info="of these, so many over which the fill fades in",
            )
            match_colors = gradio.Checkbox(label="Match colours", info="takes off a cast that the fill has at its edge")

    loaded: list[Any] = [photograph, editor, upload, buttons, about]
    # What loads or runs a network waits for its turn, not in gradio's queue; the rest does not.
    network = {"concurrency_id": "network", "concurrency_limit": MOST_WAITING, "api_visibility": "private"}
    at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    quick = {"concurrency_limit": 4, "api_visibility": "private"}
    # Not on the editor: gradio asks it for its drawing, three files to upload, whenever its progress is to change, and
    # what is asked for first may come last, so that "processing" stays and lies over the editor.
    beside = {**quick, "show_progress_on": about}
    upload.upload(actions.load, upload, loaded, **quick, show_progress_on=upload)
    another.upload(actions.load, another, loaded, **beside)
    mask.upload(actions.load_mask, [mask, photograph], loaded, **beside)
    editor.clear(actions.clear, photograph, loaded, **beside)
    again.click(actions.go_on, [photograph, result], loaded, **beside)
    grow.change(actions.limit_feather, [grow, feather], feather, show_progress="hidden", **quick)
    name.change(_with_session(gradio, actions.choose), name, what, **network)
    buttons_of_fill = [button, stop, working]
    filling = button.click(_with_session(gradio, actions.begin), None, buttons_of_fill, **at_once).then(
        _with_session(gradio, actions.fill),
        [photograph, editor, name, grow, feather, match_colors, refine],
        [slider, download, again, outcome, result, how],
        show_progress_on=working,
        **network,
    )
    for over in (filling.success, filling.failure):  # `then` does not come after an error
        over(actions.end, None, buttons_of_fill, **at_once)
    stop.click(_with_session(gradio, actions.stop), None, buttons_of_fill, **at_once)
    slider.change(None, js=SCROLL)


def _with_session(gradio: Any, action: Callable[..., Any]) -> Callable[..., Any]:
    """`action` with the session's name before its inputs; gradio knows what to give by the annotation."""

    def called(request: Any, *inputs: Any) -> Any:
        return action(request.session_hash, *inputs)

    called.__annotations__["request"] = gradio.Request
    return called


def _css_colour() -> str:
    return "#" + "".join(f"{part:02x}" for part in PAINT[:3])
