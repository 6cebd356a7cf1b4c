"""The training data of lama-small, and the tar of its photographs."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.data.preparation.lama_small import Recipe, describe, write_data
from saicinpainting.data.preparation.packing import pack, unpack
from saicinpainting.data.preparation.photographs import Found, Photograph
from saicinpainting.data.preparation.tiles import Cutting
from saicinpainting.utils import InputError
from tests.disks import largest_file
from tests.helpers import photo

RECIPE = Recipe(
    patterns=0.25, val_side=40, held_out_side=64, cutting=Cutting(size=32, sides=(32, 80), per_photograph=12)
)
RED, GREEN, BLUE = range(3)


@pytest.fixture
def found(tmp_path) -> list[Found]:
    """Photographs of one colour each, so that everything that is made of one can be told."""
    roles = {"ann": ("train", RED), "bob": ("train", RED), "val": ("val", GREEN), "held": ("held_out", BLUE)}
    made = []
    (tmp_path / "source").mkdir()
    for i, (name, (role, channel)) in enumerate(roles.items()):
        pixels = np.zeros((120, 150, 3), np.uint8)
        pixels[..., channel] = photo("coffee.png", 150, 20 * i)[:120, :, 0]
        path = tmp_path / "source" / f"{name}.png"
        Image.fromarray(pixels).save(path)
        made.append(Found(Photograph(name, role, "debian", "pictures", f"{name}.png", "Ann", "CC0-1.0"), path, "1.0"))
    return made


def content(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_only_photographs_for_training_are_in_the_tiles(found, tmp_path):
    write_data(found, tmp_path / "data", RECIPE)
    tiles = [*(tmp_path / "data" / "train").glob("*.jpg")]
    assert {tile.name.split("_")[0] for tile in tiles} == {"ann", "bob", "pattern"}
    for tile in tiles:
        with Image.open(tile) as image:
            assert image.size == (32, 32)
            mean = np.asarray(image).mean((0, 1))
        if not tile.name.startswith("pattern"):
            assert mean[RED] > 4 * max(mean[GREEN], mean[BLUE])


def test_held_out_and_validation_photographs_are_whole_and_no_larger_than_asked_for(found, tmp_path):
    write_data(found, tmp_path / "data", RECIPE)
    for name, size in (("val/val.png", (50, 40)), ("held_out/held.png", (80, 64))):
        with Image.open(tmp_path / "data" / name) as image:
            assert image.size == size
    assert len(content(tmp_path / "data" / "val")) == len(content(tmp_path / "data" / "held_out")) == 1


def test_patterns_are_the_share_that_the_recipe_names(found, tmp_path):
    facts = write_data(found, tmp_path / "data", RECIPE)
    names = [file.name for file in (tmp_path / "data" / "train").iterdir()]
    patterns = sum(name.startswith("pattern_") for name in names)
    assert facts["tiles"] == {"photographs": len(names) - patterns, "patterns": patterns}
    assert patterns / len(names) == pytest.approx(0.25, abs=0.03)
    none = write_data(found, tmp_path / "none", replace(RECIPE, patterns=0.0))
    assert none["tiles"]["patterns"] == 0


def test_the_same_seed_makes_the_same_files(found, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_data(found, tmp_path / folder, replace(RECIPE, seed=seed))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a" / "train") != content(tmp_path / "c" / "train")


def test_sources_name_author_licence_digest_and_tiles_of_each_photograph(found, tmp_path):
    write_data(found, tmp_path / "data", RECIPE)
    facts = json.loads((tmp_path / "data" / "sources.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in facts["photographs"]}
    assert set(rows) == {"ann", "bob", "val", "held"}
    assert rows["ann"]["sha256"] == hashlib.sha256(found[0].path.read_bytes()).hexdigest()
    assert rows["ann"]["tiles"] == len([*(tmp_path / "data" / "train").glob("ann_*")]) > 0
    assert rows["held"]["tiles"] == 0
    printed = describe(facts, ["others: not to be had"])
    assert "held_out held              pictures 1.0: held.png (Ann, CC0-1.0)" in printed
    assert "missing  others: not to be had" in printed
    assert printed.endswith("val/: 1; held_out/: 1")


def test_a_folder_that_was_written_before_is_left_alone(found, tmp_path):
    write_data(found, tmp_path / "data", RECIPE)
    before = content(tmp_path / "data")
    with pytest.raises(InputError, match=r"train exists; give an empty folder"):
        write_data(found, tmp_path / "data", RECIPE)
    assert content(tmp_path / "data") == before


def test_without_a_photograph_to_train_on_nothing_is_written(found, tmp_path):
    with pytest.raises(InputError, match="no photograph to train on"):
        write_data(found[2:], tmp_path / "data", RECIPE)
    assert not (tmp_path / "data").exists()


def test_packed_photographs_make_the_same_set_elsewhere(found, tmp_path):
    said = pack(found, tmp_path / "a.tar", limit_mb=1)
    assert said.startswith("3 photographs, 0.0 MB: shorter side 1100, JPEG quality 95")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert sorted(tar.getnames()) == ["sources.json", "train/ann.jpg", "train/bob.jpg", "val/val.jpg"]
    there = unpack(tmp_path / "a.tar", tmp_path / "photographs")
    assert [one.describe() for one in there] == [one.describe() for one in found[:3]]  # the digests of the originals
    write_data(found, tmp_path / "here", RECIPE)
    write_data(there, tmp_path / "there", RECIPE)
    assert content(tmp_path / "here" / "train").keys() == content(tmp_path / "there" / "train").keys()
    tile = next((tmp_path / "here" / "train").glob("ann_*.jpg"))
    with Image.open(tile) as first, Image.open(tmp_path / "there" / "train" / tile.name) as second:
        assert np.abs(np.asarray(first, int) - np.asarray(second, int)).mean() < 3


def test_photographs_are_made_smaller_until_the_limit_is_kept(found, tmp_path):
    pack(found, tmp_path / "large.tar", limit_mb=1)
    large = (tmp_path / "large.tar").stat().st_size
    said = pack(found, tmp_path / "small.tar", limit_mb=0.7 * large / 1e6)
    assert "JPEG quality 95" not in said
    assert (tmp_path / "small.tar").stat().st_size <= 0.7 * large
    with pytest.raises(InputError, match=r"3 photographs do not fit into --limit-mb 0\.001"):
        pack(found, tmp_path / "tiny.tar", limit_mb=0.001)
    assert not (tmp_path / "tiny.tar").exists()


def test_another_tar_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tar: no such file; --pack writes it"):
        unpack(tmp_path / "absent.tar", tmp_path)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(__file__, "test.py")
    with pytest.raises(InputError, match=r"other\.tar: no sources\.json in it"):
        unpack(tmp_path / "other.tar", tmp_path / "photographs")


@pytest.mark.parametrize("limit", [1000, 3000])
def test_a_full_disk_leaves_nothing_that_the_next_start_would_refuse(found, tmp_path, limit):
    with largest_file(limit), pytest.raises(OSError, match=r"File too large: .*(jpg|png|json)"):
        write_data(found, tmp_path / "data", RECIPE)
    write_data(found, tmp_path / "data", RECIPE)
    write_data(found, tmp_path / "whole", RECIPE)
    assert content(tmp_path / "data") == content(tmp_path / "whole")
