"""Failures from the tables of an evaluation; tests/bin/test_evaluate.py has those that bin/evaluate.py writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.evaluation.qualitative import find_failures, write_failures, write_side_by_side
from tests.helpers import photo

TABLE = """set\timage\thole\tl1\tl1_hole
{set}\t0_mask000.png\t0-10%\t0.1\t
{set}\t1_mask000.png\t10-20%\t0.2\t0.5
{set}\t2_mask000.png\t10-20%\t0.4\t0.7
"""


@pytest.fixture(params=["2024", "0017", "NA"])
def evaluation(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model's folder as bin/evaluate.py leaves it, of a set of that name with three images."""
    folder = tmp_path / "model"
    data, predictions = tmp_path / request.param, folder / "predictions" / request.param
    for path in (data, predictions):
        path.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(photo(size=32, offset=30 * i)).save(data / f"{i}.png")
        Image.fromarray(np.full((32, 32), 255 * (i > 0), np.uint8)).save(data / f"{i}_mask000.png")
        Image.fromarray(photo(size=32)).save(predictions / f"{i}_mask000.png")
    content = {"made_by": {"dataset": {"img_suffix": ".png"}}, "sets": {request.param: {"folder": str(data)}}}
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "images.csv").write_text(TABLE.format(set=request.param))
    return folder


def test_a_set_may_have_any_folder_s_name(evaluation: Path, tmp_path: Path) -> None:
    (name,) = (path.name for path in (evaluation / "predictions").iterdir())
    failures = find_failures(evaluation, by="l1_hole", set_name=name)
    assert failures.ranked["image"].tolist() == ["2_mask000.png", "1_mask000.png"]  # the other has no hole
    write_failures(evaluation, failures, tmp_path / "page.html", top=2)
    assert (tmp_path / "page.html").read_text().count('src="data:image/jpeg') == 2 * 3
    against = find_failures(evaluation, by="l1", against=evaluation)
    assert against.ranked["worse by"].tolist() == [0, 0, 0]


def test_the_deviation_is_that_of_the_other_tables(evaluation: Path) -> None:
    table = find_failures(evaluation, by="l1").by_hole
    assert list(table.index) == ["0-10%", "10-20%"]
    assert table["std"].tolist() == [0, pytest.approx(0.1)]
    assert table["count"].tolist() == [1, 2]


def test_a_set_may_be_one_image(evaluation: Path, tmp_path: Path) -> None:
    (predictions,) = (evaluation / "predictions").iterdir()
    one = tmp_path / predictions.name / "1.png"
    assert write_side_by_side(one, {"ours": predictions}, tmp_path / "page.html", count=0, seed=0) == 1
    assert "1_mask000.png" in (tmp_path / "page.html").read_text()


def test_images_may_have_any_name_and_shape(evaluation: Path, tmp_path: Path) -> None:
    (data,) = (tmp_path / path.name for path in (evaluation / "predictions").iterdir())
    name = os.fsdecode(b"caf\xe9")
    for folder, file in ((data, f"{name}.png"), (data, f"{name}_mask000.png"), (evaluation, "")):
        target = folder / file if file else evaluation / "predictions" / data.name / f"{name}_mask000.png"
        Image.new("RGB", (1, 2000)).save(target)
    with (evaluation / "images.csv").open("a") as table:
        table.write(f"{data.name}\tcaf\\udce9_mask000.png\t10-20%\t0.9\t0.9\n")
    failures = find_failures(evaluation, by="l1")
    write_failures(evaluation, failures, tmp_path / "page.html", top=1)
    assert (tmp_path / "page.html").read_text().count('src="data:image/jpeg') == 3
