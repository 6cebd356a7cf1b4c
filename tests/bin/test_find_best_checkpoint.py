"""bin/find_best_checkpoint.py on a real run, shrunk."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path

import pytest

from saicinpainting.commands import find_best_checkpoint
from saicinpainting.training.log_reports import read_runs
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import run_script, write_data
from tests.runs import compose_run, write_log

SSIM = "val_ssim_total_mean"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of three epochs of four steps; the experiment is in `run`."""
    root = tmp_path_factory.mktemp("find_best")
    write_data(root / "data")
    train(compose_run(root, "trainer.kwargs.max_epochs=3"), root / "run")
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change; best.ckpt is a copy in it."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


def best_by_ssim(finished: Path) -> str:
    (log,) = read_runs(finished / "run")
    step = log.scalars[SSIM].idxmax()
    return f"epoch={step // 4}-step={step + 1}.ckpt"


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The command in this process, which has imported everything; errors of the user come as they are."""
    monkeypatch.setattr(sys, "argv", ["find_best_checkpoint.py", *map(str, arguments)])
    inspect.unwrap(find_best_checkpoint.main)()


def test_best_is_best_by_what_the_run_monitored(finished: Path):
    found = run_script("find_best_checkpoint.py", "run", cwd=finished)
    assert found.returncode == 0, found.stderr
    title, _, first, *_, verdict = found.stdout.splitlines()
    assert title == f"{SSIM}, the highest first"
    assert first.split()[:2] == ["1", best_by_ssim(finished)]
    assert first.endswith("= best.ckpt")
    assert verdict == "best.ckpt is the best"


def test_a_run_whose_monitor_was_not_measured_is_ranked_by_what_stood_in_for_it(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(SSIM, "val_ssim_fid100_f1_total_mean"))
    run_here(monkeypatch, run)
    title, _, first, *_ = capsys.readouterr().out.splitlines()
    assert title == f"{SSIM}, the highest first"
    assert first.split()[1] == best_by_ssim(finished)


def test_link_makes_best_the_best_by_another_metric(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """By a metric of which the first epoch is the best, which best.ckpt is not."""
    models, logs = run / "models", run.parent / "tb" / "version_0"
    write_log(logs, {"val_lpips_total_mean": {3: 0.1, 7: 0.2, 11: 0.3}})
    (models / "best.ckpt").write_bytes((models / "epoch=1-step=8.ckpt").read_bytes())
    arguments = (run, "--metric", "val_lpips_total_mean", "--logs", logs)
    verdict = "the best is epoch=0-step=4.ckpt; best.ckpt is epoch=1-step=8.ckpt"
    run_here(monkeypatch, *arguments)
    assert capsys.readouterr().out.splitlines()[-1] == verdict
    assert not (models / "best.ckpt").samefile(models / "epoch=0-step=4.ckpt")
    run_here(monkeypatch, *arguments, "--link")
    assert capsys.readouterr().out.splitlines()[-2:] == [verdict, "best.ckpt is now epoch=0-step=4.ckpt"]
    assert (models / "best.ckpt").samefile(models / "epoch=0-step=4.ckpt")
    assert {path.name for path in models.iterdir()} == {
        "best.ckpt", "last.ckpt", *(f"epoch={e}-step={4 * e + 4}.ckpt" for e in range(3)),
    }  # fmt: skip


def test_a_run_without_its_logs_is_ranked_by_its_files(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(finished / "tb"), str(run.parent / "gone")))
    run_here(monkeypatch, run)
    printed = capsys.readouterr()
    assert "gone/run, where its config.yaml has them" in printed.err
    assert printed.out.splitlines()[2].split()[:2] == ["1", best_by_ssim(finished)]
    with pytest.raises(InputError, match=r"gone/run, where its config\.yaml has them"):
        run_here(monkeypatch, run, "--metric", "val_gen_l1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "val_fid_total_mean"], f"val_fid_total_mean was not logged; known: .*{SSIM}"),
        (["--metric", "val_gen_adv"], "--metric val_gen_adv: which is better is not known; add --mode"),
        (["--logs", "{root}/several"], r"logs of several runs \(one, two\); name one with --logs"),
        (["--metric", "loss", "--mode", "min", "--logs", "{root}/several/one"], "none of its checkpoints was written"),
    ],
)
def test_a_mistake_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    for name in ("one", "two"):
        write_log(tmp_path / "several" / name, {"loss": {10**6: 1.0}})
    with pytest.raises(InputError, match=message):
        run_here(monkeypatch, finished / "run", *(argument.format(root=tmp_path) for argument in arguments))


def test_an_error_is_one_line(tmp_path: Path):
    found = run_script("find_best_checkpoint.py", "nowhere", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.splitlines() == ["error: nowhere: no folder models/ in it; expected a run's folder"]
