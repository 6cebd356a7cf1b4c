"""What a sweep does with runs that end well, that fail and that are killed; the runs themselves train nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from saicinpainting.io.signals import EXIT_STATUS, StopSignals
from saicinpainting.training import sweep
from saicinpainting.training.sweep import command_of_run, train_one, with_callback
from saicinpainting.utils import InputError
from tests.helpers import ROOT, is_running
from tests.runs import compose_raw
from tests.scripts import run_forked

SCRIPT = Path(__file__).with_name("swept.py")
RATES = "optimizers.generator.lr=0.3,0.1,0.4,0.2"


def run_sweep(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """The process, and the command lines of its runs."""
    location = [f"location.tb_dir={tmp_path / 'tb'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    arguments = ["-cn", "lama-fourier", "evaluator=ssim_inpainted", *location, *words, "--multirun"]
    command = [str(SCRIPT), str(tmp_path / "commands"), *arguments]
    done = run_forked(command, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": str(ROOT)}, timeout=300)
    return done, [json.loads(line) for line in (tmp_path / "commands").read_text().splitlines()]


@pytest.mark.parametrize("batch", ["null", "1"], ids=["all_at_once", "one_by_one"])
def test_failed_and_killed_runs_end_no_sweep_and_a_table_says_so(batch: str, tmp_path: Path) -> None:
    done, commands = run_sweep(tmp_path, RATES, f"hydra.sweeper.max_batch_size={batch}")
    assert len(commands) == 4
    rows = [line.split(" | ")[:5] for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [[row[0], *row[1:4]] for row in rows] == [
        ["| 0", "0.3", "failed", "20"],
        ["| 3", "0.2", "ended", "20"],
        ["| 1", "0.1", "ended", "20"],
        ["| 2", "0.4", "failed", "0"],
    ]
    assert "was killed by SIGKILL" in (tmp_path / "sweep" / "0" / "train.log").read_text()
    assert "data.batch_size: expected another" in (tmp_path / "sweep" / "runs.md").read_text()
    assert done.returncode == 1
    assert "error: 2 of the sweep's runs did not end well" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_whose_runs_end_well_ends_well(tmp_path: Path) -> None:
    done, _ = run_sweep(tmp_path, "optimizers.generator.lr=0.1,0.2")
    assert done.returncode == 0, done.stderr


def test_a_run_of_a_sweep_is_a_command_of_its_own(tmp_path: Path) -> None:
    _, commands = run_sweep(tmp_path, "optimizers.generator.lr=0.2", "run_title='a (1)'")
    assert commands[0][0] == sys.executable
    assert commands[0][1] == str(ROOT / "bin" / "train.py")
    words = commands[0][2:]
    assert "optimizers.generator.lr=0.2" in words
    assert f"hydra.run.dir={tmp_path / 'sweep' / '0'}" in words
    assert "hydra.mode=RUN" in words
    assert "++trainer.resume_from_checkpoint=auto" in words  # a job that a cluster starts once more goes on
    alone = compose_raw("lama-fourier", *[word for word in words if not word.startswith("--")])
    assert (alone.optimizers.generator.lr, alone.run_title) == (0.2, "a (1)")


def test_a_sweep_may_be_asked_for_anywhere_on_the_command_line() -> None:
    callback = "+hydra.callbacks.sweep_start._target_=saicinpainting.training.sweep.SweepStart"
    for words in (["-m", "a=1,2", "-cn", "x"], ["a=1,2", "-m", "-cn", "x"], ["a=1,2", "-cn", "x", "-m"]):
        assert with_callback(words) == ["-m", callback, "a=1,2", "-cn", "x"]
    assert with_callback(["-cn", "x", "-m"]) == ["-m", "-cn", "x", callback]
    assert with_callback(["hydra.mode=MULTIRUN", "a=1"]) == [callback, "hydra.mode=MULTIRUN", "a=1"]
    assert with_callback(["-cn", "x", "a=1"]) == ["-cn", "x", "a=1"]


def job(tmp_path: Path, sweeper: str = "hydra_plugins.x.OptunaSweeper") -> tuple[Any, Any]:
    """A config, and Hydra's settings of a job with it."""
    source = SimpleNamespace(provider="main", schema="file", path="/configs")
    hydra = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path), config_sources=[source]),
        job=SimpleNamespace(config_name="mine"),
        overrides=SimpleNamespace(task=["a=1"]),
        sweeper={"_target_": sweeper},
    )
    return OmegaConf.create({"trainer": {"resume_from_checkpoint": None}}), hydra


def test_a_sweeper_that_optimizes_hears_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_run_process", lambda *_: -signal.SIGKILL)
    with pytest.raises(InputError, match="this run was killed by SIGKILL"):
        train_one(*job(tmp_path), StopSignals())
    basic = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    assert train_one(*job(tmp_path, basic), StopSignals()) is None


def test_a_run_that_was_stopped_ends_the_sweep_only_if_the_sweep_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_run_process", lambda *_: EXIT_STATUS)
    with pytest.raises(InputError, match="ended with status 75"):
        train_one(*job(tmp_path), StopSignals())
    signals = StopSignals()
    signals.received = "SIGTERM"
    with pytest.raises(SystemExit) as ended:
        train_one(*job(tmp_path), signals)
    assert ended.value.code == EXIT_STATUS


def test_a_run_resumes_what_its_config_says(tmp_path: Path) -> None:
    config, hydra = job(tmp_path)
    assert "++trainer.resume_from_checkpoint=auto" in command_of_run(config, hydra)
    config.trainer.resume_from_checkpoint = "last.ckpt"
    assert "++trainer.resume_from_checkpoint=auto" not in command_of_run(config, hydra)


def test_what_ends_the_launcher_stops_the_run_first(tmp_path: Path) -> None:
    """As a cluster's launcher does, by an error out of a signal's handler."""

    def over(*_: Any) -> None:
        raise TimeoutError("the job's time is over")

    before = signal.signal(signal.SIGALRM, over)
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (Path({str(tmp_path / 'saved')!r}).touch(), sys.exit(75)))\n"
        f"Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)"
    )

    def end_it() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    try:
        threading.Thread(target=end_it, daemon=True).start()
        with pytest.raises(TimeoutError):
            sweep._run_process([sys.executable, "-c", code], StopSignals())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc")
def test_a_run_ends_with_its_sweep() -> None:
    """Which was killed, and could not stop it."""
    run = [sys.executable, str(ROOT / "tests" / "io" / "signalled.py"), "starts"]
    code = f"from saicinpainting.training import sweep; sweep._run_process({run}, sweep.StopSignals())"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        _, errors = parent.communicate(timeout=60)  # once the child has closed its end
    assert b"stopped by SIGTERM before the first step" in errors
    for _ in range(1000):  # it closes its files a moment before it is gone
        if not is_running(child):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the run goes on without its sweep")
