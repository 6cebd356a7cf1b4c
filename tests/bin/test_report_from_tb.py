"""bin/report_from_tb.py on the logs of a real run, shrunk, that was resumed once."""

from __future__ import annotations

import csv
import inspect
import sys
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.commands import report_from_tb
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import run_script, write_data
from tests.runs import compose_run, write_log


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of two epochs of four steps, the second after a resume; the experiment is in `run`."""
    root = tmp_path_factory.mktemp("report")
    write_data(root / "data")
    train(compose_run(root, "trainer.kwargs.max_epochs=1"), root / "run")
    last = f"trainer.resume_from_checkpoint={root / 'run' / 'models' / 'last.ckpt'}"
    train(compose_run(root, "trainer.kwargs.max_epochs=2", last), root / "run")
    return root


def values(root: Path, tag: str) -> list[float]:
    files = sorted((root / "tb" / "run").rglob("events*"), key=lambda file: file.parent.name)
    assert [file.parent.name for file in files] == ["version_0", "version_1"]
    boards = [EventAccumulator(str(file)).Reload() for file in files]
    return [scalar.value for board in boards for scalar in board.Scalars(tag)]


def test_a_resumed_run_is_one_table_and_one_plot(resumed: Path, tmp_path: Path):
    report = run_script(
        "report_from_tb.py", str(resumed / "run"), "--out", "report.tsv", "--plot", "report.png", "--last", "3",
        cwd=tmp_path,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    with open(tmp_path / "report.tsv", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file, delimiter="\t")}
    losses, ssim = values(resumed, "train_gen_l1"), values(resumed, "val_ssim_total_mean")
    assert (len(losses), len(ssim)) == (8, 2)
    row = rows["train_gen_l1"]
    assert (row["run"], row["step"], row["values"], row["best"]) == ("run", "7", "8", "")
    assert float(row["last"]) == pytest.approx(losses[-1], rel=1e-5)
    assert float(row["mean of last 3"]) == pytest.approx(sum(losses[-3:]) / 3, rel=1e-5)
    row = rows["val_ssim_total_mean"]
    assert float(row["best"]) == pytest.approx(max(ssim), rel=1e-5)
    assert row["best step"] == ("3" if ssim[0] == max(ssim) else "7")
    for line in report.stdout.splitlines():
        if line.startswith("val_ssim_total_mean"):
            assert line.split()[1] == f"{ssim[-1]:.6g}"
            break
    else:
        pytest.fail(report.stdout)
    with Image.open(tmp_path / "report.png") as image:
        assert image.width > 1000


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The command in this process, which has imported everything; errors of the user come as they are."""
    monkeypatch.setattr(sys, "argv", ["report_from_tb.py", *map(str, arguments)])
    inspect.unwrap(report_from_tb.main)()


def test_runs_stand_side_by_side(resumed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The same logs twice: as an experiment, and one version of its TensorBoard folder."""
    version = resumed / "tb" / "run" / "version_0"
    run_here(monkeypatch, resumed / "run", version, "--tags", "train_gen_l1", "val_ssim*mean")
    cells = [line.split() for line in capsys.readouterr().out.splitlines()][1:]
    assert [row[:2] for row in cells[::2]] == [["val_ssim_total_mean", "run"], ["train_gen_l1", "run"]]
    assert [row[0] for row in cells[1::2]] == ["run/version_0"] * 2
    assert [row[-1] for row in cells] == ["2", "1", "8", "4"]  # values


def test_what_was_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for version in (0, 1):
        write_log(tmp_path / "run" / f"version_{version}", {"val_gen_l1": {5: 1.0}})
    run_here(monkeypatch, tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run: {tmp_path / 'run' / 'version_1'}")
    assert line.endswith("begins anew; what was logged before is left out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tags", "val_fid*"], r"--tags val_fid\*: no such scalar; known: "),
        (["--plot", "report.xyz"], r"expected a name in \.png, \.pdf or \.svg"),
    ],
)
def test_a_mistake_is_named(resumed: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str):
    with pytest.raises(InputError, match=message):
        run_here(monkeypatch, resumed / "run", *arguments)


@pytest.mark.parametrize("option", [["--smooth", "1"], ["--smooth", "x"], ["--last", "0"]])
def test_an_option_out_of_range_is_refused(
    resumed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str]
):
    with pytest.raises(SystemExit):
        run_here(monkeypatch, resumed / "run", *option)
    assert f"argument {option[0]}: expected a" in capsys.readouterr().err


def test_an_error_is_one_line(tmp_path: Path):
    report = run_script("report_from_tb.py", "nowhere", cwd=tmp_path)
    assert report.returncode == 1
    assert report.stderr.splitlines() == [
        "error: nowhere does not exist; expected a run's folder or a folder of TensorBoard"
    ]
