"""Drawings as requests may send them, whatever the page would."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from saicinpainting.inference.page_editor import MOST_BLOB_BYTES, MOST_DRAWINGS, make_editor

gradio = pytest.importorskip("gradio")


@pytest.fixture
def editor() -> Any:
    return make_editor(gradio, longest_side=100, type="numpy")


def drawing(folder: Path, side: int, layers: int = 1) -> Any:
    from gradio.components.image_editor import EditorData
    from gradio.data_classes import FileData

    path = folder / "a.png"
    Image.new("RGBA", (side, side)).save(path)
    file = FileData(path=str(path))
    return EditorData(background=file, layers=[file] * layers, composite=None)


def blob(index: object, data: bytes = b"x", name: str = "a") -> Any:
    return SimpleNamespace(data={"type": "layer", "index": index, "id": name}, files=[("file", data)])


def test_a_preview_with_a_layer_is_taken(editor: Any, tmp_path: Path):
    taken = editor.preprocess(drawing(tmp_path, 100))
    assert [layer.shape for layer in taken["layers"]] == [(100, 100, 4)]
    assert editor.get_block_name() == gradio.ImageEditor().get_block_name()  # as the browser knows it


@pytest.mark.parametrize(("side", "layers"), [(101, 1), (100, 3)])
def test_larger_ones_and_many_layers_are_refused(editor: Any, tmp_path: Path, side: int, layers: int):
    with pytest.raises(gradio.Error):
        editor.preprocess(drawing(tmp_path, side, layers))


@pytest.mark.parametrize(
    "blob", [blob(10**9), blob("1" * 5000), blob(0, bytes(MOST_BLOB_BYTES + 1))], ids=["index", "digits", "bytes"]
)
def test_a_part_of_a_drawing_is_bounded(editor: Any, blob: Any):
    with pytest.raises(gradio.Error):
        editor.accept_blobs(blob)


def test_so_are_drawings_that_nobody_asks_for(editor: Any):
    for number in range(50):
        editor.accept_blobs(blob(0, name=str(number)))
    assert list(editor.blob_storage) == [str(number) for number in range(50 - MOST_DRAWINGS, 50)]
