"""gradio's editor, which decodes whatever a request names, with bounds: one preview, and one layer painted on it."""

from __future__ import annotations

import io
from typing import Any

from saicinpainting.io.pixels import open_image

MOST_LAYERS, MOST_DRAWINGS = 2, 8
"""Of a drawing; kept at once, in memory, for those who fill next."""
MOST_BLOB_BYTES = 16 << 20


def make_editor(gradio: Any, *, longest_side: int, **settings: Any) -> Any:
    """A `gradio.ImageEditor` that takes images of at most `longest_side` pixels a side.

    Others are a `gradio.Error`, and have not been decoded.
    """
    from gradio.components.base import server

    parent = gradio.ImageEditor

    class ImageEditor(parent):  # type: ignore[misc, valid-type]
        # As gradio has it, which would write a file of types beside this one otherwise.
        __module__ = parent.__module__
        EVENTS = parent.EVENTS

        def preprocess(self, payload: Any) -> Any:
            drawing = payload if payload is None or payload.id is None else self.blob_storage.get(payload.id)
            if drawing is not None and len(drawing.layers or ()) > MOST_LAYERS:
                raise gradio.Error(f"a drawing of {len(drawing.layers)} layers", print_exception=False)
            return super().preprocess(payload)

        def convert_and_format_image(self, file: Any, *args: Any, **kwargs: Any) -> Any:
            if file is not None and not _fits(file, longest_side):
                raise gradio.Error("what was painted on is no preview of this page", print_exception=False)
            return super().convert_and_format_image(file, *args, **kwargs)

        @server
        def accept_blobs(self, data: Any) -> None:
            index = str(data.data["index"])
            too_many = index.isdecimal() and int(index[:9]) >= MOST_LAYERS
            if too_many or len(data.files[0][1]) > MOST_BLOB_BYTES:
                raise gradio.Error("a drawing that is no one's of this page", print_exception=False)
            super().accept_blobs(data)
            while len(self.blob_storage) > MOST_DRAWINGS:
                del self.blob_storage[next(iter(self.blob_storage))]

    return ImageEditor(**settings)


def _fits(file: Any, longest_side: int) -> bool:
    try:
        with open_image(io.BytesIO(file) if isinstance(file, bytes) else file.path) as image:
            return max(image.size) <= longest_side
    except Exception:  # decoders raise many kinds of errors on broken files
        return False
