"""A local page to try a checkpoint: load a photograph, paint the hole, fill it. Needs gradio, an optional extra."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saicinpainting.io.images import write_image
from saicinpainting.utils import InputError

MAX_UPLOAD_MB = 30
MAX_MEGAPIXELS = 16.0
KEPT_SECONDS = 3600
"""How long photographs and results stay on disk, for their links."""
PLAIN, REFINED = "plain", "refined (slow)"
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def split_drawing(drawing: Mapping[str, Any] | None, *, max_megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """The photograph (H, W, 3) and the mask (H, W) bool of what gradio's editor gives.

    drawing: `background`, uint8 (H, W, 3 or 4), and `layers` of RGBA; what was painted is hole, whatever its colour.
    Transparent parts of the photograph come over white: the colours that a file has under them, and that
    `bin/predict.py` takes, do not reach the page, for browsers make them black.

    Raises:
        InputError: nothing was loaded or painted, the photograph is too large, or was painted at another size.
    """
    background = None if drawing is None else drawing.get("background")
    if background is None:
        raise InputError("load a photograph first")
    photograph = _over_white(background)
    height, width = photograph.shape[:2]
    if height * width > max_megapixels * 1e6:
        raise InputError(
            f"the photograph has {height * width / 1e6:.1f} megapixels, at most {max_megapixels:g} are taken here; "
            "bin/predict.py fills larger ones"
        )
    mask = np.zeros((height, width), bool)
    for layer in (drawing or {}).get("layers") or []:
        painted = layer[..., 3] > 0
        if painted.shape == mask.shape:
            mask |= painted
        elif painted.any():
            raise InputError(
                f"what was painted has {painted.shape[1]} x {painted.shape[0]} pixels, the photograph {width} x "
                f"{height}; load the photograph again and paint anew"
            )
    if not mask.any():
        raise InputError("paint what is to be filled with the brush")
    return photograph, mask


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3 or 4) to (H, W, 3); opaque pixels keep every bit."""
    colours, alpha = pixels[..., :3], pixels[..., 3:].astype(np.float32) / 255
    if alpha.shape[-1] == 0:
        return np.ascontiguousarray(colours)
    return np.rint(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _write_result(folder: Path, result: np.ndarray) -> Path:
    """A new file in `folder`, from which old ones go."""
    for file in folder.iterdir():
        if time.time() - file.stat().st_mtime > KEPT_SECONDS:
            file.unlink()
    path = folder / f"filled{time.time_ns()}.png"
    write_image(path, result)
    return path


def make_page(fills: Mapping[str, Fill], *, title: str, max_megapixels: float = MAX_MEGAPIXELS) -> Any:
    """The gradio page; fills: what each of the modes does with a photograph and a mask."""
    try:
        import gradio
    except ImportError:
        raise InputError("the page needs gradio: pip install 'gradio>=5.27'") from None
    folder = tempfile.TemporaryDirectory(prefix="lama-")

    def fill(drawing: Mapping[str, Any] | None, mode: str) -> tuple[Any, str]:
        try:
            photograph, mask = split_drawing(drawing, max_megapixels=max_megapixels)
            result = fills[mode](photograph, mask)
        except InputError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        return (photograph, result), str(_write_result(Path(folder.name), result))

    # Delete the copies that gradio keeps: old ones hourly, all on exit.
    with gradio.Blocks(title=title, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gradio.Markdown(f"### {title}\nLoad a photograph, paint over what is to go, fill.")
        editor = gradio.ImageEditor(
            type="numpy",
            label="Photograph",
            sources=["upload", "clipboard"],
            brush=gradio.Brush(colors=["#ff2a2a"], default_size=30, color_mode="fixed"),
            eraser=gradio.Eraser(default_size=30),
            transforms=(),
            layers=False,
        )
        mode = gradio.Radio(list(fills), value=next(iter(fills)), label="How")
        button = gradio.Button("Fill", variant="primary")
        slider = gradio.ImageSlider(label="Before and after", interactive=False)
        download = gradio.File(label="Result, PNG", interactive=False)
        button.click(fill, [editor, mode], [slider, download])
    return page
