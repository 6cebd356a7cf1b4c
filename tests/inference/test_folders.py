"""Folders: batches of equal sizes, interruptions, results of others, images that cannot be read."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saicinpainting.evaluation.data import InpaintingDataset
from saicinpainting.inference.folders import load_filler, predict_folder
from saicinpainting.utils import InputError
from tests.helpers import photo

SIZES = ((40, 56), (64, 64), (33, 50), (64, 48))
BROKEN = {7: "it is no image", 30: "truncated", 55: "is 48x64 pixels but"}


class Red:
    """Fills holes with red; counts what it saw, and stops after so many images."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.batches: list[torch.Size] = []
        self.stop_after = stop_after

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        if self.stop_after is not None and sum(shape[0] for shape in self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(batch["image"].shape)
        red = torch.tensor([1.0, 0, 0])[:, None, None]
        return batch["image"] * (1 - batch["mask"]) + red * batch["mask"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred images of four sizes in nested folders, three of which are of no use."""
    root = tmp_path_factory.mktemp("mixed")
    for i in range(100):
        height, width = SIZES[i % 4]
        folder = root / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 10 + i % 20, 8:25] = 255
        Image.fromarray(photo("astronaut.png", 96, i)[:height, :width]).save(folder / f"{i:03}.png")
        Image.fromarray(mask).save(folder / f"{i:03}_mask000.png")
    (root / "part1" / "007.png").write_text("no image")
    half = (root / "part0" / "030.png").read_bytes()
    (root / "part0" / "030.png").write_bytes(half[: len(half) // 2])
    Image.new("L", (10, 10)).save(root / "part1" / "055_mask000.png")
    return root


def run(mixed: Path, out: Path, fill: Red, **settings: Any) -> Any:
    dataset = InpaintingDataset(mixed, img_suffix=".png", pad_out_to_modulo=8)
    return predict_folder(fill, dataset, mixed, out, made_by={"model": "red"}, **settings)


def test_a_hundred_mixed_images_interrupted_twice(mixed: Path, tmp_path: Path) -> None:
    fills = [Red(30), Red(30), Red()]
    for fill in fills[:2]:
        with pytest.raises(KeyboardInterrupt):
            run(mixed, tmp_path, fill, batch_size=4)
    there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    assert len(there) >= 56
    summary = run(mixed, tmp_path, fills[2], batch_size=4)
    assert (len(summary.written) + summary.kept, summary.kept) == (97, len(there))
    assert str(summary) == f"{len(summary.written)} images written, {summary.kept} were there already, 3 skipped"
    for number, reason in BROKEN.items():
        assert re.search(reason, summary.skipped[f"part{number % 3}/{number:03}_mask000.png"])
    # Each image was filled and written once, in batches of one size.
    assert sum(shape[0] for fill in fills for shape in fill.batches) == 97
    assert {shape[0] for fill in fills for shape in fill.batches} >= {4}
    assert all(file.stat().st_mtime_ns == time for file, time in there.items())
    assert not list(tmp_path.rglob("*.part"))
    for file in tmp_path.rglob("*.png"):
        image = np.asarray(Image.open(mixed / file.relative_to(tmp_path).with_name(file.name.replace("_mask000", ""))))
        hole = np.asarray(Image.open(mixed / file.relative_to(tmp_path))) > 0
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.where(hole[..., None], [255, 0, 0], image))


def test_workers_read_the_same(mixed: Path, tmp_path: Path) -> None:
    summary = run(mixed, tmp_path, Red(), batch_size=8, num_workers=2)
    assert (len(summary.written), len(summary.skipped)) == (97, 3)


def test_results_of_something_else_are_not_mixed_or_overwritten(mixed: Path, tmp_path: Path) -> None:
    run(mixed, tmp_path / "out", Red())
    dataset = InpaintingDataset(mixed, img_suffix=".png", pad_out_to_modulo=8)
    for made_by in ({"model": "blue"}, None):
        if made_by is None:
            (tmp_path / "out" / ".predicted.json").unlink()
        with pytest.raises(InputError, match=r"out holds 97 results of .*existing=overwrite to make them anew"):
            predict_folder(Red(), dataset, mixed, tmp_path / "out", made_by=made_by or {"model": "red"})
    fill = Red()
    summary = run(mixed, tmp_path / "out", fill, existing="overwrite")
    assert (len(summary.written), summary.kept) == (97, 0)
    with pytest.raises(InputError, match=r"existing: unknown value 'kepe'; known: keep, overwrite"):
        run(mixed, tmp_path / "out", fill, existing="kepe")


def test_a_full_disk_is_named(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def no_space(path: Path, image: torch.Tensor) -> None:
        threads.append(threading.current_thread())
        raise InputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("saicinpainting.inference.folders.write_image", no_space)
    with pytest.raises(InputError, match="No space left"):
        run(mixed, tmp_path, Red())
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("model", [{"checkpoint": "best.ckpt", "refine": True}, {"checkpoint": "lama.onnx"}])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "bf16"}, "precision=bf16: .* cannot follow it; leave precision out"),
        ({"compile_network": True}, "compile=True"),
        ({"strategy": "crop"}, "strategy=crop"),
    ],
)
def test_options_that_would_be_ignored_are_refused(model: dict[str, Any], option: dict[str, Any], message: str) -> None:
    settings = {"path": "run", "checkpoint": model["checkpoint"]}
    with pytest.raises(InputError, match=message):
        load_filler(settings, torch.device("cpu"), refine=model.get("refine", False), fold=True, **option)
