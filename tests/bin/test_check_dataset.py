"""bin/check_dataset.py finds what a run finds, and a run over a dirty folder ends."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from saicinpainting.data.loading import WORDS, ImageIssue
from tests.helpers import dirty_folder, run_script, shrunk, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, dict[str, ImageIssue]]:
    root = tmp_path_factory.mktemp("dirty")
    write_data(root / "data", train_images=1)
    return root, dirty_folder(root / "data" / "train")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_list_names_every_unusual_file(data, tmp_path, jobs):
    root, expected = data
    table = tmp_path / "check.tsv"
    arguments = ["--out-size", "64", "--n-jobs", jobs, "--report", str(table), "--max-failures", "0.2"]
    done = run_script("check_dataset.py", str(root / "data" / "train"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, issue in expected.items():
        assert sum(f"/{name} is {WORDS[issue]}" in line for line in lines) == 1
    assert "24 images, 13 ordinary, 4 unusable" in lines
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {Path(row["file"]).name: row["issue"].upper() for row in rows} == {k: v.name for k, v in expected.items()}
    assert all(row["reason"] for row in rows if row["issue"] == "unreadable")


def test_too_many_unusable_images_are_an_error(data, tmp_path):
    root, _ = data
    done = run_script("check_dataset.py", str(root / "data" / "train"), "--n-jobs", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: 4 of 24 images are unusable, more than --max-failures 0.05" in done.stderr
    small = run_script("check_dataset.py", str(root / "data" / "val"), "--no-crop", "--n-jobs", "1", cwd=tmp_path)
    assert "0.png is of another size than data.train.out_size; another image takes its place" in small.stdout
    assert small.returncode == 1


def test_a_run_over_a_dirty_folder_ends_and_names_each_file_once(data, tmp_path):
    root, expected = data
    overrides = shrunk(
        root,
        "data.num_workers=2",
        "trainer.kwargs.max_epochs=2",
        "data.train.transform_variant=distortions",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    done = run_script("train.py", "-cn", "lama-fourier", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "train.log").read_text()
    for name, issue in expected.items():
        assert log.count(f"/{name} is {WORDS[issue]}") == 1, name
    assert "data.train: of 24 images seen 1 grey, 1 cmyk, 1 sixteen_bit" in log
    assert ", 4 unreadable" in log
