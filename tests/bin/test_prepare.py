"""The preparation commands against a local server: interrupted, gone on with, and trained from."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from saicinpainting.data.pairs import InpaintingDataset
from tests.helpers import ROOT, photo, run_script, shrunk
from tests.server import serving

VAL, TEST, TRAIN = 6, 24, 12


def jpeg(i: int, size: int = 256) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo("astronaut.png", size, 7 * i)).save(file, "jpeg", quality=92)
    return file.getvalue()


def tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for i, name in enumerate(names):
            data, info = jpeg(i), tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """Archives of the structure of the real ones, and their checksums."""
    folder = tmp_path_factory.mktemp("served")
    tar(folder / "val_large.tar", [f"val_large/Places365_val_{i:08d}.jpg" for i in range(VAL)])
    tar(folder / "test_large.tar", [f"test_large/Places365_test_{i:08d}.jpg" for i in range(TEST)])
    for kind in ("standard", "challenge"):
        names = [f"data_large_{kind}/{c}/{c}bbey/{i:08d}.jpg" for i in range(TRAIN // 2) for c in "ab"]
        tar(folder / f"train_large_places365{kind}.tar", names)
    sums = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.name}" for file in folder.glob("*.tar")]
    (folder / "md5sums").write_text("\n".join(sums) + "\n")
    with zipfile.ZipFile(folder / "data256x256.zip", "w") as archive:
        for i in range(10):
            archive.writestr(f"data256x256/{i + 1:05d}.jpg", jpeg(i))
    return folder


def places(server_address: str, served: Path, root: Path, *more: str) -> list[str]:
    return [
        str(root / "places"),
        *("--url", server_address, "--checksums", str(served / "md5sums")),
        *("--val-images", "8", "--visual-images", "2", "--eval-images", "10"),
        *("--eval-sets", "random_thick_256", "random_thin_256"),
        *("--location-dir", str(root / "location"), "--results", str(root)),
        *more,
    ]


def killed(script: str, arguments: list[str], when) -> None:
    """Start a command and kill it when `when` says so."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / script), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not when():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def content(folder: Path) -> dict[str, str]:
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


def trains(root: Path, config: str, name: str, *more: str) -> None:
    """bin/train.py accepts the location and trains a step on it."""
    folder = root / "configs" / "location"
    shutil.copytree(ROOT / "configs" / "training", root / "configs", dirs_exist_ok=True)
    shutil.copy(root / "location" / f"{name}.yaml", folder / f"{name}.yaml")
    overrides = [o for o in shrunk(root) if not o.startswith("location.")]
    done = run_script(
        "train.py",
        *("--config-path", str(root / "configs"), "-cn", config, f"location={name}"),
        *overrides,
        *("trainer.kwargs.limit_train_batches=1", "+trainer.kwargs.limit_val_batches=1"),
        *more,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    assert list((root / "experiments").rglob("last.ckpt"))


def test_places_interrupted_three_times(served, tmp_path):
    root, whole = tmp_path / "cut", tmp_path / "whole"
    for folder in (root, whole):
        (folder / "location").mkdir(parents=True)
    with serving(served) as server:
        arguments = places(server.address, served, root)
        server.hang, server.cuts, server.cut_after = True, 1, 100_000
        part = root / "places" / "val_large.tar.part"
        killed("prepare_places.py", arguments, lambda: size(part) == server.cut_after)  # in the first download
        server.hang = False
        server.go_on.set()
        evaluation = root / "places" / "val"
        killed("prepare_places.py", arguments, lambda: any(evaluation.glob("*.png")))  # while masks are drawn
        made = {file.name: file.stat().st_mtime_ns for file in evaluation.glob("*.png")}
        assert server.requests[1] == ("val_large.tar", 100_000)
        server.cuts, server.cut_after = 2, 80_000  # the train archive's connection breaks twice
        done = run_script("prepare_places.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "original/test: done before (24 files from test_large.tar)" in done.stdout
        again = [name for name, time in made.items() if (evaluation / name).stat().st_mtime_ns != time]
        assert len(again) <= 2  # picture and mask of the image that was under way
        sizes = sum(file.stat().st_size for file in served.glob("*.tar") if "challenge" not in file.name)
        assert server.sent == sizes  # nothing came twice
        asked = [first for path, first in server.requests if path.startswith("train")]
        assert asked == [0, 80_000, 160_000]
        again = run_script("prepare_places.py", *arguments, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("done before") == 7
        assert server.sent == sizes
        undisturbed = run_script("prepare_places.py", *places(server.address, served, whole), cwd=tmp_path)
        assert undisturbed.returncode == 0, undisturbed.stderr
    assert content(root / "places") == content(whole / "places")
    assert len(InpaintingDataset(root / "places" / "val", img_suffix=".png")) == 8
    evaluated = {f.name.split("_crop")[0] for f in (root / "places" / "evaluation" / "random_thin_256").glob("*.png")}
    judged = {f.name.split("_crop")[0] for f in evaluation.glob("*.png")}
    assert len(evaluated) == 10
    assert not evaluated & judged
    assert len(list((root / "places" / "train").rglob("*.jpg"))) == TRAIN
    assert not list((root / "places").glob("*.tar*"))
    trains(root, "lama-fourier", "places")


def test_places_challenge_with_a_list_and_archives_at_hand(served, tmp_path):
    (tmp_path / "location").mkdir()
    (tmp_path / "places").mkdir()
    (tmp_path / "list.txt").write_text("Places365_test_00000003.jpg\nPlaces365_test_00000005\n")
    shutil.copy(served / "test_large.tar", tmp_path / "places" / "test_large.tar")
    with serving(served) as server:
        more = ("--train", "challenge", "--eval-list", str(tmp_path / "list.txt"), "--keep-archives")
        arguments = places(server.address, served, tmp_path, *more)
        plan = run_script("prepare_places.py", *arguments, "--dry-run", cwd=tmp_path)
        assert "train_large_places365challenge.tar (476 GB, md5" in plan.stdout
        assert "disk: 497 GB of images, and 497 GB for archives" in plan.stdout
        assert not server.requests
        done = run_script("prepare_places.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "test_large.tar" not in {path for path, _ in server.requests}
        evaluated = {f.name.split("_crop")[0] for f in (tmp_path / "places/evaluation/random_thick_256").glob("*.png")}
        assert evaluated == {"Places365_test_00000003", "Places365_test_00000005"}
        assert (tmp_path / "places" / "train_large_places365challenge.tar").is_file()
        other = run_script("prepare_places.py", *arguments, "--seed", "1", cwd=tmp_path)
        assert other.returncode == 1
        assert "val was made with other settings" in other.stderr
        (tmp_path / "list.txt").write_text("Places365_test_99999999\n")
        missing = run_script("prepare_places.py", *arguments, cwd=tmp_path)
        assert "1 of 1 images of" in missing.stderr
        assert "first Places365_test_99999999" in missing.stderr


def test_a_wrong_archive_is_refused(served, tmp_path):
    (tmp_path / "location").mkdir()
    with serving(served) as server:
        arguments = places(server.address, served, tmp_path)
        arguments[arguments.index("--checksums") + 1] = str(tmp_path / "sums")
        (tmp_path / "sums").write_text(f"{'0' * 32}  val_large.tar\n")
        done = run_script("prepare_places.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: val_large.tar: " in done.stderr
    assert f"expected {'0' * 32}" in done.stderr
    assert not (tmp_path / "location" / "places.yaml").exists()


def test_celeba_from_an_archive_behind_an_address(served, tmp_path):
    (tmp_path / "location").mkdir()
    with serving(served) as server:
        arguments = [
            *(str(tmp_path / "celeba"), f"{server.address}/data256x256.zip"),
            *("--val-images", "3", "--eval-sets", "random_thin_256"),
            *("--location-dir", str(tmp_path / "location"), "--results", str(tmp_path)),
        ]
        server.hang, server.cuts, server.cut_after = True, 1, 50_000
        part = tmp_path / "celeba" / "data256x256.zip.part"
        killed("prepare_celeba.py", arguments, lambda: size(part) == server.cut_after)
        server.hang = False
        server.go_on.set()
        done = run_script("prepare_celeba.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.sent == (served / "data256x256.zip").stat().st_size
    train = {file.name for file in (tmp_path / "celeba" / "train_256").iterdir()}
    kept = {file.name.split("_crop")[0] + ".jpg" for file in (tmp_path / "celeba" / "val_256").glob("*.png")}
    assert (len(train), len(kept)) == (7, 3)
    assert not train & kept
    (tmp_path / "location" / "celeba_hq.yaml").write_text("data_root_dir: /mine\n")
    again = run_script("prepare_celeba.py", *arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert "celeba_hq.yaml exists and says something else" in again.stderr
    os.remove(tmp_path / "location" / "celeba_hq.yaml")
    assert run_script("prepare_celeba.py", *arguments, cwd=tmp_path).returncode == 0
    trains(tmp_path, "lama-fourier-celeba", "celeba_hq", "data.train.out_size=256")


def test_celeba_from_a_folder_of_larger_images(tmp_path):
    (tmp_path / "location").mkdir()
    (tmp_path / "faces").mkdir()
    for i in range(4):
        (tmp_path / "faces" / f"{i}.jpg").write_bytes(jpeg(i, 300 if i % 2 else 256))
    arguments = [
        *(str(tmp_path / "celeba"), str(tmp_path / "faces"), "--val-images", "1", "--eval-sets"),
        *("--location-dir", str(tmp_path / "location"), "--results", str(tmp_path)),
    ]
    done = run_script("prepare_celeba.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = [*(tmp_path / "celeba/train_256").iterdir(), *(tmp_path / "celeba/original_val_256").iterdir()]
    assert {Image.open(file).size for file in made} == {(256, 256)}
    assert sorted(file.suffix for file in made) == [".jpg", ".jpg", ".png", ".png"]
    absent = run_script("prepare_celeba.py", str(tmp_path / "x"), "absent.zip", cwd=tmp_path)
    assert "absent.zip: no such folder or file" in absent.stderr
