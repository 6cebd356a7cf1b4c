"""bin/calc_dataset_stats.py on masks whose holes are known."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from tests.helpers import photo, run_script

SHARES = [0.05, 0.05, 0.35, 0.75]


def test_the_table_tells_what_the_masks_are(tmp_path):
    for i, share in enumerate(SHARES):
        Image.fromarray(photo("coffee.png", 100, 30 * i)).save(tmp_path / f"{i}.png")
        mask = np.zeros((100, 100), np.uint8)
        mask[: round(100 * share)] = 255
        if i == 1:
            mask = np.roll(mask, 50, axis=0)
            mask[52] = 0  # two holes
        Image.fromarray(mask).save(tmp_path / f"{i}_mask000.png")
    for jobs in ("1", "2"):
        done = run_script(
            "calc_dataset_stats.py", ".", f"out{jobs}", "--samples-n", "1", "--n-jobs", jobs, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    out = tmp_path / "out1"
    assert (out / "holes.tsv").read_text() == (tmp_path / "out2" / "holes.tsv").read_text()
    with (out / "holes.tsv").open(newline="") as file:
        rows = {row["hole"]: row for row in csv.DictReader(file, delimiter="\t")}
    measured = [0.05, 0.04, 0.35, 0.75]
    assert float(rows["total"]["mean"]) == round(np.mean(measured), 4)
    assert float(rows["total"]["std"]) == round(np.std(measured), 4)
    assert float(rows["total"]["holes"]) == 1.25
    assert {name: int(row["masks"]) for name, row in rows.items() if int(row["masks"])} == {
        "total": 4,
        "0-10%": 2,
        "30-40%": 1,
        "70-80%": 1,
    }
    assert len((out / "masks.tsv").read_text().splitlines()) == 5
    assert Image.open(out / "holes.png").size == (840, 480)
    samples = sorted(file.name for file in (out / "samples").iterdir())
    assert [name.split("_")[0] for name in samples] == ["0-10", "30-40", "70-80"]
    red = np.asarray(Image.open(out / "samples" / samples[2]))[10, 50]
    assert red[0] > 200
    assert max(red[1:]) < 60


def test_a_folder_without_masks_is_an_error(tmp_path):
    done = run_script("calc_dataset_stats.py", ".", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
