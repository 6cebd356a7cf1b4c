"""The table over all models of an evaluation folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saicinpainting.evaluation.models_table import check_table_metrics, write_models_table
from saicinpainting.utils import InputError


def write_results(outdir: Path, model: str, **sets: dict[str, Any]) -> None:
    (outdir / model).mkdir(parents=True)
    content = {
        name: {
            "digest": one.pop("digest", f"digest of {name}"),
            "images": 1200,
            "results": {metric: {"total": {"mean": value}} for metric, value in one.items()},
        }
        for name, one in sets.items()
    }
    (outdir / model / "results.json").write_text(json.dumps({"sets": content}))


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_a_row_a_model_and_the_best_in_bold(tmp_path: Path) -> None:
    write_results(tmp_path, "a_1", thick={"fid": 10.0, "ssim": 0.9, "l1": 0.1}, thin={"fid": 1.0})
    write_results(tmp_path, "b", thick={"fid": 9.994, "ssim": 0.9, "kid": 0.00123})
    write_results(tmp_path, "c", thick={"fid": None, "ssim": 0.85})
    write_models_table(tmp_path, ["fid", "kid", "ssim"])
    assert rows((tmp_path / "table.md").read_text()) == [
        ["model", "thick (1,200) FID ↓", "thick (1,200) KID ↓", "thick (1,200) SSIM ↑", "thin (1,200) FID ↓"],
        ["---"] * 5,
        ["a_1", "10.00", "", "**0.900**", "**1.00**"],
        ["b", "**9.99**", "**0.00123**", "**0.900**", ""],
        ["c", "", "", "0.850", ""],
    ]
    latex = (tmp_path / "table.tex").read_text()
    assert r"& \multicolumn{3}{c}{thick (1,200)} & thin (1,200) \\" in latex
    assert r"a\_1 & 10.00 &  & \textbf{0.900} & \textbf{1.00} \\" in latex
    assert r"FID $\downarrow$ & KID $\downarrow$ & SSIM $\uparrow$ & FID $\downarrow$ \\" in latex


def test_sets_of_one_name_and_other_images_are_not_mixed(tmp_path: Path) -> None:
    write_results(tmp_path, "a", mine={"fid": 1.0, "digest": "a" * 64})
    write_results(tmp_path, "b", mine={"fid": 2.0, "digest": "b" * 64})
    write_models_table(tmp_path, ["fid"])
    head, _, *models = rows((tmp_path / "table.md").read_text())
    assert head == ["model", "mine (1,200, aaaaaa) FID ↓", "mine (1,200, bbbbbb) FID ↓"]
    assert models == [["a", "**1.00**", ""], ["b", "", "**2.00**"]]


def test_the_same_images_are_one_column_whatever_the_set_is_called(tmp_path: Path) -> None:
    write_results(tmp_path, "a", thick={"fid": 1.0, "digest": "a" * 64}, thin={"fid": 3.0})
    write_results(tmp_path, "b", thick_512={"fid": 2.0, "digest": "a" * 64})
    write_models_table(tmp_path, ["fid"])
    head, _, *models = rows((tmp_path / "table.md").read_text())
    assert head == ["model", "thick (1,200) FID ↓", "thin (1,200) FID ↓"]
    assert models == [["a", "**1.00**", "**3.00**"], ["b", "2.00", ""]]


@pytest.mark.parametrize("content", ['{"accuracy": 0.5}', "[1, 2]", '{"sets": ["a"]}', "no JSON"])
def test_results_of_other_programs_are_left_out(content: str, tmp_path: Path) -> None:
    write_results(tmp_path, "a", mine={"fid": 1.0})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text(content)
    write_models_table(tmp_path, ["fid"])
    assert [row[0] for row in rows((tmp_path / "table.md").read_text())] == ["model", "---", "a"]


def test_the_score_that_is_meant_is_named() -> None:
    with pytest.raises(InputError, match=r"table: unknown score 'lpip'; .*'lpips'"):
        check_table_metrics(["lpip"])
