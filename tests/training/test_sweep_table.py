"""The table over runs: folders made by hand, in each state that a run may be in."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from saicinpainting.io.signals import StopSignals
from saicinpainting.training.lock import only_run_in
from saicinpainting.training.sweep_table import as_markdown, find_runs, row_of, sweep_table, write_sweep_table
from saicinpainting.utils import InputError
from tests.helpers import run_script
from tests.runs import write_log

LINE = "[2026-11-28 12:00:00,000][saicinpainting.training.run][INFO] - "
SSIM, LPIPS = "val_ssim_total_mean", "val_lpips_total_mean"


def write_run_folder(
    sweep: Path, name: str, *words: str, log: str, ssim: dict[int, float] | None = None, monitor: str = SSIM
) -> Path:
    """A folder as Hydra and training leave it; its checkpoints are empty files, which nobody reads."""
    run, tb = sweep / name, sweep.parent / "tb"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in ("data.batch_size=4", *words)))
    (run / "train.log").write_text("".join(f"{LINE}{line}\n" for line in log.splitlines()))
    if ssim is None:
        return run
    kept = f"trainer: {{checkpoint_kwargs: {{monitor: {monitor}, mode: max}}}}\n"
    (run / "config.yaml").write_text(f"generator: {{}}\ntraining_model: {{}}\nlocation: {{tb_dir: {tb}}}\n{kept}")
    write_log(tb / sweep.name / name / "version_0", {SSIM: ssim, LPIPS: {step: 1 - v for step, v in ssim.items()}})
    (run / "models").mkdir()
    for step in ssim:
        (run / "models" / f"epoch=0-step={step + 1}.ckpt").write_text(str(step))
    best = max(ssim, key=lambda step: ssim[step])
    (run / "models" / "best.ckpt").hardlink_to(run / "models" / f"epoch=0-step={best + 1}.ckpt")
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    ended = "the run:\nfinished: there"
    write_run_folder(folder, "0", "optimizers.generator.lr=0.1", log=ended, ssim={9: 0.5, 19: 0.7, 29: 0.6})
    write_run_folder(folder, "1", "optimizers.generator.lr=0.2", log="stopped: a|b is missing")
    write_run_folder(folder, "2", "optimizers.generator.lr=0.3", log="the run:\nsome step", ssim={9: 0.8})
    write_run_folder(
        folder, "10", "optimizers.generator.lr=0.4", log="the run:\nstopped by SIGTERM after 5 steps; x", ssim={9: 0.9}
    )
    return folder


def test_runs_are_in_the_order_of_their_numbers(sweep: Path) -> None:
    assert [run.name for run in find_runs(sweep)] == ["0", "1", "2", "10"]


def test_the_table_has_the_best_first_and_what_each_run_changed(sweep: Path) -> None:
    table = sweep_table(sweep)
    assert list(table["run"]) == ["10", "2", "0", "1"]
    assert list(table["optimizers.generator.lr"]) == ["0.4", "0.3", "0.1", "0.2"]
    assert "data.batch_size" not in table  # the same in all
    assert list(table["state"]) == ["stopped", "failed", "ended", "failed"]
    assert list(table["steps"]) == [10, 10, 30, 0]
    assert list(table[SSIM])[:3] == pytest.approx([0.9, 0.8, 0.7])
    assert list(table["after"])[:3] == [10, 10, 20]
    assert list(table["best checkpoint"]) == [
        "epoch=0-step=10.ckpt",
        "epoch=0-step=10.ckpt",
        "epoch=0-step=20.ckpt",
        "",
    ]
    assert list(table["why"]) == ["by SIGTERM after 5 steps", "", "", "a|b is missing"]


def test_the_lowest_is_first_where_less_is_better(sweep: Path) -> None:
    assert list(sweep_table(sweep, LPIPS)["run"]) == ["10", "2", "0", "1"]
    assert sweep_table(sweep, LPIPS)[LPIPS][0] == pytest.approx(0.1)


def test_a_run_that_goes_on_is_running_whatever_its_log_says(sweep: Path) -> None:
    with only_run_in(sweep / "0", StopSignals()):
        assert row_of(sweep / "0").state == "running"
    assert row_of(sweep / "0").state == "ended"


def test_a_run_that_measures_less_than_it_monitors_is_judged_as_it_judged_itself(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "s", "0", log="", ssim={9: 0.5}, monitor="val_ssim_fid100_f1_total_mean")
    assert (row_of(run).metric, row_of(run).value) == (SSIM, 0.5)


def test_markdown_and_csv_have_the_same_rows(sweep: Path, tmp_path: Path) -> None:
    table = sweep_table(sweep)
    write_sweep_table(table, tmp_path / "runs.csv")
    assert list(pd.read_csv(tmp_path / "runs.csv")["run"]) == [10, 2, 0, 1]
    lines = as_markdown(table).splitlines()
    assert lines[0].startswith("| run | optimizers.generator.lr | state | steps | val_ssim_total_mean | after |")
    assert lines[2].startswith("| 10 | 0.4 | stopped | 10 | 0.9 | 10 |")
    assert lines[5].endswith("|  |  |  | a/b is missing |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    with pytest.raises(InputError, match=r"expected a name in \.md or \.csv"):
        write_sweep_table(table, tmp_path / "runs.txt")


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs in it"):
        sweep_table(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        sweep_table(tmp_path / "none")


@pytest.mark.slow
def test_the_command_prints_the_table(sweep: Path, tmp_path: Path) -> None:
    done = run_script("sweep_table.py", str(sweep), "--out", str(tmp_path / "t.md"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "t.md").read_text() == as_markdown(sweep_table(sweep))
