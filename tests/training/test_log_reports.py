from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saicinpainting.metrics import HIGHER_IS_BETTER
from saicinpainting.training.log_reports import (
    COLOURS,
    RunLog,
    better,
    printed,
    read_all,
    read_runs,
    report_table,
    select_tags,
    smoothed,
    write_plot,
    write_table,
)
from saicinpainting.utils import InputError
from tests.runs import write_log


def read_one(path: Path) -> dict[str, dict[int, float]]:
    (run,) = read_runs(path)
    return {tag: dict(series.items()) for tag, series in run.scalars.items()}


def test_scalars_come_back(tmp_path: Path):
    scalars = {"train_gen_l1": {4: 0.5, 9: 0.25}, "val_ssim_total_mean": {9: 0.75}}
    write_log(tmp_path / "run" / "version_0", scalars)
    assert read_one(tmp_path / "run") == scalars


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path: Path):
    """The first start went on to step 9 after the checkpoint at step 5, and was killed; version 10 follows 9."""
    write_log(tmp_path / "run" / "version_9", {"a": dict.fromkeys(range(10), 1.0), "b": {3: 1.0, 7: 1.0}})
    write_log(tmp_path / "run" / "version_10", {"a": {6: 2.0, 8: 2.0}, "c": {8: 2.0}})
    assert read_one(tmp_path / "run") == {
        "a": {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 8: 2},
        "b": {3: 1},
        "c": {8: 2},
    }
    assert read_runs(tmp_path / "run")[0].restarts == []


def test_two_files_in_one_folder_are_one_run(tmp_path: Path):
    write_log(tmp_path / "run", {"a": {0: 1.0, 1: 1.0}})
    write_log(tmp_path / "run", {"a": {1: 2.0, 2: 2.0}})
    assert read_one(tmp_path / "run") == {"a": {0: 1, 1: 2, 2: 2}}


def test_a_run_begun_anew_leaves_the_old_one_out_and_says_so(tmp_path: Path):
    write_log(tmp_path / "run" / "version_0", {"a": {3: 1.0, 5: 1.0}, "b": {5: 1.0}})
    anew = write_log(tmp_path / "run" / "version_1", {"a": {3: 2.0}})
    assert read_one(tmp_path / "run") == {"a": {3: 2}}
    assert read_runs(tmp_path / "run")[0].restarts == [anew]


def test_what_a_kill_cut_off_is_left_out(tmp_path: Path):
    file = write_log(tmp_path / "run", {"a": dict.fromkeys(range(5), 1.0)})
    file.write_bytes(file.read_bytes()[:-5])
    (tmp_path / "run" / "events.out.tfevents.9999999999.host.1.0").touch()
    assert read_one(tmp_path / "run") == {"a": dict.fromkeys(range(4), 1.0)}


def test_runs_are_told_apart_by_their_folders(tmp_path: Path):
    for name in ("one", "two"):
        write_log(tmp_path / "tb" / name / "version_0", {"a": {0: 1.0}})
    write_log(tmp_path / "tb" / "two" / "version_1", {"a": {1: 2.0}})
    assert {run.name: list(run.scalars["a"]) for run in read_runs(tmp_path / "tb")} == {"one": [1], "two": [1, 2]}
    (version,) = read_runs(tmp_path / "tb" / "two" / "version_1")
    assert (version.name, list(version.scalars["a"])) == ("two/version_1", [2])
    (file,) = (tmp_path / "tb" / "one").rglob("events*")
    assert read_runs(file)[0].name == "one/version_0"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path):
    for name in ("mine/run", "yours/run", "yours/other"):
        write_log(tmp_path / name, {"a": {0: 1.0}})
    paths = [tmp_path / "mine" / "run", tmp_path / "yours"]
    assert [run.name for run in read_all(paths)] == [str(paths[0]), "other", str(paths[1] / "run")]


def test_an_experiment_folder_leads_to_its_logs(tmp_path: Path):
    run = tmp_path / "experiments" / "jane_big-lama"
    run.mkdir(parents=True)
    config = f"generator: {{}}\ntraining_model: {{}}\nlocation: {{tb_dir: {tmp_path / 'tb'}}}\n"
    (run / "config.yaml").write_text(config)
    with pytest.raises(InputError, match=r"no logs in .*tb/jane_big-lama, where its config\.yaml has them"):
        read_runs(run)
    write_log(tmp_path / "tb" / "jane_big-lama" / "version_0", {"a": {0: 1.0}})
    assert read_runs(run)[0].name == "jane_big-lama"
    assert read_one(run) == {"a": {0: 1}}


@pytest.mark.parametrize("logs", ["search/3", "3"], ids=["ours", "official"])
def test_a_run_of_a_sweep_leads_to_its_logs(logs: str, tmp_path: Path):
    run = tmp_path / "experiments" / "search" / "3"
    run.mkdir(parents=True)
    config = f"generator: {{}}\ntraining_model: {{}}\nlocation: {{tb_dir: {tmp_path / 'tb'}}}\n"
    (run / "config.yaml").write_text(config)
    with pytest.raises(InputError, match=r"no logs in .*tb/search/3, where"):
        read_runs(run)
    write_log(tmp_path / "tb" / logs / "version_0", {"a": {0: 1.0}})
    assert read_one(run) == {"a": {0: 1}}


def test_what_is_no_log_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither config\.yaml nor events"):
        read_runs(tmp_path / "empty")
    write_log(tmp_path / "run", {})
    with pytest.raises(InputError, match="run: its event files hold no scalars"):
        read_runs(tmp_path / "run")
    write_log(tmp_path / "real", {"val_gen_l1": {0: 1.0}, "_val_ssim_0-10%_mean": {0: 1.0}})
    with pytest.raises(InputError, match=r"real: val_gen_11 was not logged; known: val_gen_l1 \(did you mean"):
        read_runs(tmp_path / "real")[0].series("val_gen_11")


@pytest.mark.parametrize(
    ("tag", "direction"),
    [
        ("val_ssim_fid100_f1_total_mean", "max"),
        ("val_lpips_fid100_f1_total_mean", "max"),
        ("extra_val_random_thick_512_ssim_total_mean", "max"),
        ("_test_ssim_10-20%_mean", "max"),
        ("test_lpips_total_mean", "min"),
        ("val_fid_total_mean", "min"),
        ("val_gen_resnet_pl", "min"),
        *((f"val_{score}_total_mean", "max" if more else "min") for score, more in HIGHER_IS_BETTER.items()),
        ("val_ssim_total_std", None),
        ("val_gen_adv", None),
        ("train_gen_l1", None),
        ("speed_images_per_second", None),
    ],
)
def test_the_better_direction(tag: str, direction: str | None):
    assert better(tag) == direction


def test_tags_are_selected_by_pattern_in_reading_order():
    known = ["speed_step_seconds", "train_gen_l1", "val_gen_l1", "val_ssim_total_mean", "val_ssim_total_std",
             "_val_ssim_0-10%_mean", "extra_val_thick_ssim_0-10%_mean", "test_ssim_total_mean"]  # fmt: skip
    assert select_tags(known) == [
        "val_ssim_total_mean", "val_gen_l1", "test_ssim_total_mean", "train_gen_l1", "speed_step_seconds",
    ]  # fmt: skip
    assert select_tags(known, ["*_l1", "_val*"]) == ["_val_ssim_0-10%_mean", "val_gen_l1", "train_gen_l1"]
    with pytest.raises(InputError, match=r"--tags val_fid\*: no such scalar; known: .*val_gen_l1"):
        select_tags(known, ["val_*", "val_fid*"])


# ---- table and plot ------------------------------------------------------------------------------------------------

SSIM = "val_ssim_total_mean"


def run_log(name: str, scalars: Mapping[str, list[float]]) -> RunLog:
    """Values logged every hundred steps."""
    series = {tag: pd.Series(v, index=[100 * i for i in range(len(v))]) for tag, v in scalars.items()}
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


def test_smoothing_is_an_exponential_mean_free_of_its_start():
    values = np.random.RandomState(0).rand(50)
    weights = 0.9 ** np.arange(50)
    expected = [float(values[: i + 1][::-1] @ weights[: i + 1] / weights[: i + 1].sum()) for i in range(50)]
    assert list(smoothed(pd.Series(values), 0.9)) == pytest.approx(expected, rel=1e-12)
    assert list(smoothed(pd.Series([1.0, math.nan, 3.0]), 0.5)) == pytest.approx([1.0, math.nan, 7 / 3], nan_ok=True)


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
