"""Sweeps of runs that train, by Hydra's own launcher, Optuna's sweeper and submitit; one run is killed in each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease
from omegaconf import OmegaConf

from saicinpainting.training.lock import LEASE, LEASE_SECONDS
from tests.helpers import ROOT, shrunk, write_data

SSIM = "val_ssim_total_mean"


def sweep(root: Path, *words: str, killed: str, with_its_job: bool = False) -> tuple[str, list[dict[str, str]], int]:
    """Do a sweep in `root/sweep` and kill the training of the run `killed`: printed text, table, status."""
    write_data(root / "data")
    quiet = ["+trainer.kwargs.enable_progress_bar=false", f"hydra.sweep.dir={root / 'sweep'}"]
    words = ("--multirun", "-cn", "lama-fourier", *shrunk(root, *quiet), *words)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"}
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "bin" / "train.py"), *words], cwd=root, env=environment, stdout=log, stderr=log
        )
        try:
            victim = training_in(root / "sweep" / killed, process)
            if with_its_job:  # the process above it
                victim = int(Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(victim, signal.SIGKILL)
            process.wait(timeout=900)
        finally:
            process.kill()
    text = (root / "log").read_text()
    lines = [line.strip("| \n").split(" |") for line in text.splitlines() if line.startswith("| ")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return text, [dict(zip(head, row, strict=False)) for row in rows], process.returncode


def training_in(run: Path, sweep: subprocess.Popen[bytes]) -> int:
    """The process that trains in `run`, once it does."""
    deadline = time.monotonic() + 600
    while True:
        owner = None
        if (run / LEASE).exists():
            owner = SoftFileLease(run / LEASE, lease_duration=LEASE_SECONDS, thread_local=False).owner
        if owner is not None:
            return owner.pid
        assert sweep.poll() is None, "the sweep ended by itself"
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.05)


def test_hydras_own_launcher_goes_on_after_a_killed_run(tmp_path: Path) -> None:
    _, rows, status = sweep(tmp_path, "trainer.seed=0,1", killed="0")
    assert [(row["trainer.seed"], row["state"]) for row in rows] == [("1", "ended"), ("0", "failed")]
    assert rows[1]["best checkpoint"] == ""
    assert 0 < float(rows[0][SSIM]) < 1
    assert (tmp_path / "sweep" / "1" / "models" / rows[0]["best checkpoint"]).samefile(
        tmp_path / "sweep" / "1" / "models" / "best.ckpt"
    )
    assert any((tmp_path / "tb" / "sweep" / "1").rglob("events*"))  # not where another sweep's run 1 has its logs
    assert status == 1


@pytest.mark.clients
def test_optuna_learns_from_all_runs_but_the_killed_one(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=search", "hydra.sweeper.n_trials=4", "losses.l1.weight_known=choice(1,10)"]
    text, rows, status = sweep(tmp_path, *words, killed="1")
    assert [row["state"] for row in rows].count("ended") == 3
    assert rows[-1]["run"] == "1"
    assert "Failed experiment" in text
    assert "was killed by SIGKILL" in rows[-1]["why"]
    best = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert best.best_value == pytest.approx(float(rows[0][SSIM]), abs=1e-5)
    assert str(best.best_params["optimizers.generator.lr"]) == rows[0]["optimizers.generator.lr"]
    assert status == 1


@pytest.mark.clients
@pytest.mark.parametrize("whole", [False, True], ids=["training", "job"])
def test_submitit_goes_on_after_a_killed_run(whole: bool, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["hydra/launcher=local", f"trainer.seed={'0,1' if whole else '0,1,2,3'}"]
    text, rows, status = sweep(tmp_path, *words, killed="1", with_its_job=whole)
    assert [row["state"] for row in rows[:-1]] == ["ended"] * (len(rows) - 1)
    assert (rows[-1]["run"], rows[-1]["state"]) == ("1", "stopped" if whole else "failed")
    assert ("by SIGTERM" if whole else "was killed by SIGKILL") in rows[-1]["why"]
    assert ("ended without a result" in text) == whole
    assert status == 1
