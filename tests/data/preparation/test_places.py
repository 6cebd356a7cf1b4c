"""Which images the sets of Places are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.data.preparation.places import Places


def sets_of(root: Path, monkeypatch: pytest.MonkeyPatch, **settings) -> dict[str, list[str]]:
    """The names of each set's images, of twelve in val and twelve in test."""
    for folder in ("val", "test"):
        (root / "original" / folder).mkdir(parents=True, exist_ok=True)
        for i in range(12):
            (root / "original" / folder / f"{folder}_{i:02d}.jpg").touch()
    made: dict[str, list[str]] = {}
    monkeypatch.setattr(Places, "make_set", lambda self, folder, *, names, **_: made.update({folder: list(names)}))
    Places(root=root, eval_sets=["thin"], **settings).make_sets()
    return made


@pytest.mark.parametrize("folder", ["test", "val"])
def test_listed_images_are_in_no_other_set(tmp_path, monkeypatch, folder):
    listed = [f"{folder}_{i:02d}.jpg" for i in (9, 2, 3, 4, 5)]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    settings = {"val_images": 7, "visual_images": 7, "eval_list": tmp_path / "list.txt"}
    made = sets_of(tmp_path, monkeypatch, **settings)
    assert made["evaluation/thin"] == listed
    assert (len(made["val"]), len(made["visual_test"])) == (7, 7)
    assert not {*made["val"], *made["visual_test"]} & set(listed)


def test_drawn_sets_share_no_image(tmp_path, monkeypatch):
    made = sets_of(tmp_path, monkeypatch, val_images=5, visual_images=3, eval_images=7)
    assert sorted(made["val"] + made["evaluation/thin"]) == [f"test_{i:02d}.jpg" for i in range(12)]
