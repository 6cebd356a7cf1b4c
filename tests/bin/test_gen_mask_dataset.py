"""bin/gen_mask_dataset.py as a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from saicinpainting.data.pairs import InpaintingDataset

ROOT = Path(__file__).parents[2]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "bin" / "gen_mask_dataset.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    rng = np.random.RandomState(0)
    for i in range(8):
        path = folder / ("sub" if i % 2 else "") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.randint(0, 256, (40 + 10 * i, 90, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = yaml.safe_load((ROOT / "configs/data_gen/random_medium_256.yaml").read_text())
    settings["cropping"]["out_min_size"] = 64
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_set_is_the_same_for_any_number_of_processes(photos, config, tmp_path):
    one = run(config, photos, "one", "--n-jobs", 1, cwd=tmp_path)
    two = run(config, photos, "two", "--n-jobs", 2, cwd=tmp_path)
    for done in (one, two):
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("8 images, 8 masks, 1 images skipped")
        assert "skipped broken.jpg: cannot read the image" in done.stderr
    made = digests(tmp_path / "one")
    assert made == digests(tmp_path / "two")
    assert set(made) >= {"0_crop000.png", "0_crop000_mask000.png", "sub/1_crop000.png"}

    dataset = InpaintingDataset(tmp_path / "one", img_suffix=".png")
    assert len(dataset) == 8
    for sample in dataset:
        assert sample["image"].shape == (3, 64, 64)
        assert 0 < sample["mask"].mean() <= 0.5

    other = run(config, photos, "other", "--seed", 1, cwd=tmp_path)
    assert other.returncode == 0
    assert digests(tmp_path / "other") != made


def test_errors_are_one_line(photos, config, tmp_path):
    for arguments, message in [
        (("absent.yaml", photos, "out"), f"no config absent.yaml; {ROOT / 'configs' / 'data_gen'} holds"),
        ((config, "absent", "out"), "no folder absent"),
        ((config, photos, "out", "--ext", "webp"), "no image *.webp there"),
    ]:
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr


def test_a_published_config_is_found_from_any_folder(photos, tmp_path):
    done = run("configs/data_gen/random_medium_256.yaml", photos, "set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "set" / "0_crop000.png").size == (256, 256)


def test_an_interrupted_set_is_gone_on_with(photos, config, tmp_path):
    """Killed after the third image, with half of a line and half of a picture written."""
    assert run(config, photos, "whole", cwd=tmp_path).returncode == 0
    lines = (tmp_path / "whole" / ".mask_set.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / ".mask_set.jsonl").write_text("".join(lines[:3]) + lines[3][:2])
    kept = [json.loads(line)[0].removesuffix(".jpg") for line in lines[:3]]
    for file in (tmp_path / "cut").rglob("*.png"):
        if not any(file.name.startswith(f"{Path(name).name}_crop") for name in kept):
            file.unlink()
    (tmp_path / "cut" / "5_crop000.png.part").write_bytes(b"half")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cut").rglob("*.png")}
    done = run(config, photos, "cut", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 images, 8 masks, 1 images skipped")
    (tmp_path / "cut" / "5_crop000.png.part").unlink(missing_ok=True)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    other = run(config, photos, "cut", "--seed", 1, cwd=tmp_path)
    assert "cut holds a mask set made of something else (seed: 0, now 1)" in other.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    assert "full is not empty" in run(config, photos, "full", cwd=tmp_path).stderr


def test_a_set_goes_on_with_its_own_photographs_alone(photos, config, tmp_path):
    assert run(config, photos, "set", cwd=tmp_path).returncode == 0
    before = digests(tmp_path / "set")
    shutil.copytree(photos, tmp_path / "others")
    moved = run(config, tmp_path / "others", "set", cwd=tmp_path)
    assert "error: set holds a mask set made of something else (photographs.folder: ../photos, now ../others)" in (
        moved.stderr
    )
    (photos / "0.jpg").unlink()
    fewer = run(config, photos, "set", cwd=tmp_path)
    assert "write to another folder, or remove that one" in fewer.stderr
    assert digests(tmp_path / "set") == before


def test_a_set_within_its_photographs_is_refused(photos, config, tmp_path):
    for outdir in (photos, photos / "sub" / "set"):
        done = run(config, photos, outdir, cwd=tmp_path)
        assert done.returncode == 1
        assert f"error: {outdir} lies in {photos}: " in done.stderr
    assert not (photos / "sub" / "set").exists()


def test_endings(photos, config, tmp_path):
    Image.new("RGB", (70, 70)).save(photos / "more.png")
    assert "9 images" in run(config, photos, "two", "--ext", "jpg,png", cwd=tmp_path).stdout
    Image.new("RGB", (70, 70)).save(photos / "sub" / "1.webp")
    done = run(config, photos, "auto", "--ext", "auto", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: sub/1.jpg and sub/1.webp would give the same files; rename one of them" in done.stderr
