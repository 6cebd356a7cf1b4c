"""CelebA-HQ from folders: what a preparation is made of stays what it was begun with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from saicinpainting.data.preparation.celeba import CelebaHQ
from saicinpainting.utils import InputError


def faces(folder: Path, grey: int) -> str:
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (256, 256), (grey, 40 * i, 0)).save(folder / f"{i}.png")
    return str(folder)


def prepare(root: Path, source: str) -> None:
    CelebaHQ(root=root, source=source, val_images=2, eval_sets=()).make()


def test_another_folder_of_equally_many_images_is_not_taken_for_the_first(tmp_path):
    first, other = faces(tmp_path / "first", 10), faces(tmp_path / "other", 200)
    prepare(tmp_path / "data", first)
    prepare(tmp_path / "data", first)
    with pytest.raises(InputError, match=r"train_256 was made with other settings .*first.*other"):
        prepare(tmp_path / "data", other)
    (tmp_path / "first" / "7.png").write_bytes((tmp_path / "first" / "0.png").read_bytes())
    with pytest.raises(InputError, match="train_256 was made with other settings"):
        prepare(tmp_path / "data", first)


def test_a_folder_that_a_kill_left_half_filled_is_not_completed_from_another(tmp_path, monkeypatch):
    first, other = faces(tmp_path / "first", 10), faces(tmp_path / "other", 200)
    with monkeypatch.context() as patch:
        patch.setattr("saicinpainting.data.preparation.celeba.link_or_copy", _killed_at_the_third())
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "data", first)
    with pytest.raises(InputError, match="train_256 was made with other settings"):
        prepare(tmp_path / "data", other)
    prepare(tmp_path / "data", first)
    made = [file for folder in ("train_256", "original_val_256") for file in (tmp_path / "data" / folder).glob("*.png")]
    assert {Image.open(file).getpixel((0, 0))[0] for file in made} == {10}
    assert len(made) == 6


def test_a_record_without_the_source_counts_as_another(tmp_path):
    first = faces(tmp_path / "first", 10)
    prepare(tmp_path / "data", first)
    lines = tmp_path / "data" / ".prepared.jsonl"
    old = ["train_256", [{"images": 4, "seed": 0, "size": 256}, "4 images"]]
    lines.write_text(json.dumps(old) + "\n")
    with pytest.raises(InputError, match="train_256 was made with other settings"):
        prepare(tmp_path / "data", first)


def test_a_folder_as_source_is_said_to_stay(tmp_path):
    said = CelebaHQ(root=tmp_path / "data", source=faces(tmp_path / "first", 10)).describe()
    assert "original/" not in said
    assert "original_val_256/: these 2000" in said


def _killed_at_the_third():
    from saicinpainting.io.files import link_or_copy

    calls = []

    def link(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 3:
            raise KeyboardInterrupt
        link_or_copy(source, target)

    return link
