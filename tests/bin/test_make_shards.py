"""bin/make_shards.py as its user runs it, and training from what it wrote, over http."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import dirty_folder, run_script, shrunk, write_data
from tests.server import serving


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_data(root / "data", train_images=10)
    done = run_script(
        "make_shards.py", "data/train", "set", "--shard-images", "4", "--shuffle", "0", "--n-jobs", "2", cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "10 images, 3 shards" in done.stdout
    return root


def test_shards_are_verified(root, tmp_path):
    done = run_script("make_shards.py", "--verify", "set", cwd=root)
    assert done.returncode == 0, done.stderr
    for file in (root / "set").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "shard-000001.tar").read_bytes())
    data[3000] ^= 255
    (tmp_path / "shard-000001.tar").write_bytes(data)
    (tmp_path / "shard-000002.tar").unlink()
    done = run_script("make_shards.py", "--verify", str(tmp_path), cwd=root)
    assert done.returncode == 1
    assert "shard-000001.tar: SHA-256 is" in done.stdout
    assert "error: 2 shards of" in done.stderr


def test_an_index_of_shards_that_have_none(root, tmp_path):
    with serving(root / "set") as server:
        arguments = ["--index", f"{server.address}/shard-{{000000..000002}}.tar", "--out", "index.json"]
        done = run_script("make_shards.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "10 images, 3 shards" in done.stdout
        done = run_script("make_shards.py", "--verify", "index.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shards", ["set", "set/*.tar"])
def test_the_index_lies_beside_its_shards(root, tmp_path, shards):
    (tmp_path / "set").mkdir()
    for file in (root / "set").glob("*.tar"):
        (tmp_path / "set" / file.name).symlink_to(file)
    done = run_script("make_shards.py", "--index", shards, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 images, 3 shards -> " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    for name in ("index.json", "SHA256SUMS"):
        assert (tmp_path / "set" / name).read_text() == (root / "set" / name).read_text()


def test_the_index_of_shards_of_several_folders_lies_here(root, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "more.tar").write_bytes((root / "set" / "shard-000000.tar").read_bytes())
    done = run_script("make_shards.py", "--index", "set", str(root / "set"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 shards -> index.json" in done.stdout
    done = run_script("make_shards.py", "--verify", "index.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_cut_shard_has_no_index(root, tmp_path):
    (tmp_path / "cut.tar").write_bytes((root / "set" / "shard-000000.tar").read_bytes()[:-10240])
    done = run_script("make_shards.py", "--index", "cut.tar", cwd=tmp_path)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    # What is missed first depends on where the cut falls.
    assert "cut.tar is no whole tar file: " in line
    assert "; make or copy it anew" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cut.tar"]


def test_a_folder_without_shards_has_no_index(tmp_path):
    (tmp_path / "set").mkdir()
    done = run_script("make_shards.py", "--index", "set", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: set: no shard *.tar there; name the folder of the shards, or their files\n"


def test_a_run_trains_from_shards_over_http(root, tmp_path):
    with serving(root / "set") as server:
        overrides = shrunk(
            root,
            "data.train.kind=shards",
            f"data.train.indir={server.address}",
            f"+data.train.cache_dir={tmp_path / 'cache'}",
            "+data.train.epoch_images=6",
            "data.num_workers=1",
            f"hydra.run.dir={tmp_path / 'run'}",
        )
        done = run_script("train.py", "-cn", "lama-fourier", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps: 3 an epoch" in (tmp_path / "run" / "train.log").read_text()
    assert (tmp_path / "run" / "models" / "last.ckpt").is_file()


def test_shards_are_checked_like_folders(tmp_path):
    expected = dirty_folder(tmp_path / "dirty")
    done = run_script("make_shards.py", "dirty", "set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    arguments = ["set", "--out-size", "64", "--n-jobs", "1", "--max-failures", "0.2"]
    done = run_script("check_dataset.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in expected:
        assert sum(f"/{Path(name).stem} is " in line for line in done.stdout.splitlines()) == 1
