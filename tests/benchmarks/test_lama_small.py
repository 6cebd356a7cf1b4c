"""The judge of lama-small: its metrics, what it takes from an earlier file, its sheet."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, photo


@pytest.fixture(scope="module")
def judge():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("lama_small", ROOT / "benchmarks" / "lama_small.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_cases_are_the_same_in_every_run_and_differ_by_seed(judge, tmp_path: Path):
    Image.fromarray(photo("astronaut.png", 300)).save(tmp_path / "a.png")
    first, again, other = (judge.draw(tmp_path, "a.png", size=256, kind="thick", seed=seed) for seed in (0, 0, 1))
    assert judge.digest(*first) == judge.digest(*again) != judge.digest(*other)
    image, mask = first
    assert image.shape == (256, 256, 3)
    assert set(np.unique(mask)) == {0, 255}


def test_classical_fills_of_an_earlier_file_are_taken_by_case_and_pixels(judge, tmp_path: Path):
    case = {"size": 256, "masks": "thin", "photograph": "a.png", "seed": 0, "crc": "01234567"}
    rows = [{"method": method, **case, "L1": 0.1} for method in ("Telea", "network")]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    assert judge.earlier_rows(tmp_path / "rows.json") == {("Telea", *case.values()): rows[0]}
    assert judge.earlier_rows(tmp_path / "none.json") == {}
