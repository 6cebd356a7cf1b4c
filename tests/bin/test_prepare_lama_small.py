"""bin/prepare_lama_small.py with a package of Debian made here, an installed wheel, and folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.helpers import make_deb, photo, run_script

SIZE = 410  # two scales of tiles


def table(folder: Path) -> Path:
    """A table of a package of Debian and of scikit-image."""
    rows = [
        {
            "package": "pictures",
            "kind": "debian",
            "folder": "usr/share/pictures",
            "author": "Ann",
            "licence": "CC0-1.0",
            "photographs": {
                "street": {"file": "street.png", "role": "train"},
                "room": {"file": "room.png", "role": "val", "author": "Bob"},
            },
        },
        {
            "package": "scikit-image",
            "kind": "wheel",
            "folder": "skimage/data",
            "author": "NASA",
            "licence": "public domain",
            "photographs": {"astronaut": {"file": "astronaut.png", "role": "held_out"}},
        },
    ]
    (folder / "table.yaml").write_text(yaml.safe_dump(rows))
    return folder / "table.yaml"


def folder_of_photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(photo("astronaut.png", SIZE, 4 * i)).save(folder / f"{i}.png")
    return folder


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is Debian's")
def test_packages_become_tiles_patterns_and_photographs_held_out(tmp_path):
    images = {f"usr/share/pictures/{name}.png": photo("astronaut.png", SIZE) for name in ("street", "room")}
    make_deb(tmp_path / "cache", "pictures", images)
    arguments = ("--table", str(table(tmp_path)), "--cache", str(tmp_path / "cache"), "--patterns", "0.5")
    packing = ("--pack", str(tmp_path / "photographs.tar"), "--limit-mb", "0.2")
    done = run_script("prepare_lama_small.py", str(tmp_path / "data"), *arguments, *packing, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "val      room              pictures 1.0-1: usr/share/pictures/room.png (Bob, CC0-1.0)" in done.stdout
    assert "photographs.tar: 2 photographs, 0." in done.stdout
    assert names(tmp_path / "data") == {"train", "val", "held_out", "sources.json"}
    assert names(tmp_path / "data" / "val") == {"room.png"}
    assert names(tmp_path / "data" / "held_out") == {"astronaut.png"}
    tiles = names(tmp_path / "data" / "train")
    patterns = {name for name in tiles if name.startswith("pattern_")}
    assert 0 < len(patterns) == len(tiles) - len(patterns)

    packed = ("--packed", str(tmp_path / "photographs.tar"), "--patterns", "0.5")
    again = run_script("prepare_lama_small.py", str(tmp_path / "again"), *packed, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path / "again" / "train") == tiles
    facts = [json.loads((tmp_path / name / "sources.json").read_text()) for name in ("data", "again")]
    assert facts[1]["photographs"] == [row for row in facts[0]["photographs"] if row["role"] != "held_out"]


def test_elsewhere_a_folder_of_photographs_takes_the_place_of_debians_packages(tmp_path):
    photographs = folder_of_photographs(tmp_path / "mine", 8)
    arguments = ("--table", str(table(tmp_path)), "--no-debian", "--photos", str(photographs), "--patterns", "0")
    done = run_script(
        "prepare_lama_small.py", str(tmp_path / "data"), *arguments, "--per-photograph", "3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    held_out, val = names(tmp_path / "data" / "held_out"), names(tmp_path / "data" / "val")
    assert "astronaut.png" in held_out
    assert (len(held_out), len(val)) == (3, 1)  # a quarter and an eighth of the folder
    trained = {name.split("_")[0] + ".png" for name in names(tmp_path / "data" / "train")}
    assert len(trained) == 5
    assert not trained & (held_out | val)
    assert "train/: 15 tiles of 5 photographs, 0 drawn patterns" in done.stdout


def test_errors_are_one_line(tmp_path):
    nothing = run_script("prepare_lama_small.py", "data", "--table", str(table(tmp_path)), "--no-debian", cwd=tmp_path)
    assert nothing.returncode == 1
    assert nothing.stderr == (
        "error: no photograph to train on: all packages are left out or missing; give --photos FOLDER\n"
    )
    share = run_script("prepare_lama_small.py", "data", "--patterns", "1", cwd=tmp_path)
    assert share.stderr == "error: --patterns 1: a share of the tiles is expected, from 0 to below 1\n"
    packed = run_script("prepare_lama_small.py", "data", "--packed", "a.tar", "--no-debian", cwd=tmp_path)
    assert packed.stderr == (
        "error: --packed takes the photographs from its file, not from packages; leave out --no-debian\n"
    )
    (tmp_path / "empty").mkdir()
    elsewhere = run_script(
        *("prepare_lama_small.py", "data", "--table", str(table(tmp_path))),
        cwd=tmp_path,
        PATH=str(tmp_path / "empty"),
    )
    assert elsewhere.returncode == 1
    assert elsewhere.stderr.startswith("error: apt-get is not here, so this is not Debian or Ubuntu")
