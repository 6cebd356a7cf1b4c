from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saicinpainting.training.reports.event_logs import RunLog, Series
from saicinpainting.training.reports.report import (
    COLOURS,
    printed,
    report_table,
    short_number,
    smoothed,
    write_plot,
    write_table,
)
from saicinpainting.utils import InputError

SSIM = "val_ssim_total_mean"


def run_log(name: str, scalars: Mapping[str, list[float]]) -> RunLog:
    """Values logged every hundred steps."""
    series = {tag: Series(steps=[100 * i for i in range(len(v))], values=v) for tag, v in scalars.items()}
    return RunLog(name=name, scalars=series)


RUNS = [
    run_log("one", {SSIM: [0.5, 0.75, 0.625], "val_lpips_total_mean": [0.5, math.nan, 0.25], "lr_generator": [0.001]}),
    run_log("two", {SSIM: [0.25, 0.5], "train_gen_l1": [2.0, 1.0, 3.0]}),
]


def test_a_row_a_metric_and_run(tmp_path: Path):
    table = report_table(RUNS, last=2)
    write_table(table, tmp_path / "new" / "report.tsv")
    with open(tmp_path / "new" / "report.tsv", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert header == ["metric", "run", "last", "step", "best", "best step", "mean of last 2", "values"]
    assert rows == [
        ["val_lpips_total_mean", "one", "0.25", "200", "0.25", "200", "", "3"],
        [SSIM, "one", "0.625", "200", "0.75", "100", "0.6875", "3"],
        [SSIM, "two", "0.5", "100", "0.5", "100", "0.375", "2"],
        ["train_gen_l1", "two", "3", "200", "", "", "2", "3"],
        ["lr_generator", "one", "0.001", "0", "", "", "0.001", "1"],
    ]


def test_the_table_on_the_screen():
    lines = printed(report_table(RUNS, [SSIM, "train*"], last=2)).splitlines()
    assert [line.split() for line in lines] == [
        ["metric", "run", "last", "step", "best", "best", "step", "mean", "of", "last", "2", "values"],
        [SSIM, "one", "0.625", "200", "0.75", "100", "0.6875", "3"],
        ["two", "0.5", "100", "0.5", "100", "0.375", "2"],
        ["train_gen_l1", "two", "3", "200", "-", "-", "2", "3"],
    ]
    assert "run" not in printed(report_table(RUNS[:1])).splitlines()[0].split()


def test_smoothing_is_the_exponential_mean_of_pandas():
    values = np.random.RandomState(0).rand(50)
    expected = pd.Series(values).ewm(alpha=0.1, adjust=True).mean()
    assert smoothed(list(values), 0.9) == pytest.approx(list(expected), rel=1e-12)
    assert smoothed([1.0, math.nan, 3.0], 0.5) == pytest.approx([1.0, math.nan, 7 / 3], nan_ok=True)


def colours_of(path: Path) -> set[str]:
    with Image.open(path) as image:
        counted = image.convert("RGB").getcolors(maxcolors=2**24)
    assert counted is not None
    return {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in counted}


def test_every_run_has_its_colour_in_the_plot(tmp_path: Path):
    write_plot(RUNS, tmp_path / "both.png")
    assert set(COLOURS[:2]) <= colours_of(tmp_path / "both.png")
    write_plot(RUNS, tmp_path / "new" / "one.png", ["lr_generator"])
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "new" / "one.png") as one:
        assert one.width < both.width / 2  # a panel beside four


@pytest.mark.parametrize("values", [[math.nan, math.inf], [0.0, 0.0], [21034.0] * 3, [-5.0]])
def test_values_without_a_range_are_drawn_too(tmp_path: Path, values: list[float]):
    write_plot([run_log("one", {SSIM: values})], tmp_path / "plot.png")
    assert COLOURS[0] in colours_of(tmp_path / "plot.png")  # in the legend at least


def test_nothing_to_show_is_said():
    with pytest.raises(InputError, match="name what to show with --tags"):
        report_table([run_log("one", {"_val_ssim_0-10%_mean": [1.0]})])


def test_smoothing_leaves_a_pale_line_of_the_values(tmp_path: Path):
    many = [run_log("one", {"train_gen_l1": list(np.random.RandomState(0).rand(400))})]
    for smooth in (0.0, 0.9):
        write_plot(many, tmp_path / f"{smooth}.png", smooth=smooth)
    pixels = [np.asarray(Image.open(tmp_path / f"{smooth}.png").convert("RGB")).astype(int) for smooth in (0.0, 0.9)]
    blue = [int((np.abs(p - (0, 0x72, 0xB2)).sum(axis=2) < 30).sum()) for p in pixels]
    pale = [int((np.abs(p - (191, 220, 236)).sum(axis=2) < 30).sum()) for p in pixels]
    assert blue[1] < blue[0] / 2
    assert pale[1] > 2 * pale[0]


def test_a_plot_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"report\.txt: expected a name in \.png, \.pdf or \.svg"):
        write_plot(RUNS, tmp_path / "report.txt")


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (25000, "25k"), (1.25e6, "1.25M"), (-2000, "-2k")])
def test_short_numbers(value: float, text: str):
    assert short_number(value) == text
