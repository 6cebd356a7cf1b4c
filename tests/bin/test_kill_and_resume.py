"""A run killed with SIGKILL between two checkpoints goes on from last.ckpt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.checkpoint import read_checkpoint
from tests.helpers import ROOT, run_script, shrunk, write_data

STEPS = 4  # eight images in batches of two


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the run has not come so far"
        time.sleep(0.02)


def test_a_killed_run_resumes(tmp_path: Path):
    write_data(tmp_path / "data")
    last = tmp_path / "run" / "models" / "last.ckpt"
    arguments = shrunk(tmp_path, f"hydra.run.dir={tmp_path / 'run'}", "trainer.kwargs.max_epochs=1000")
    command = [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", *arguments]
    # Its own session: workers and the run itself die at once, as with a machine that goes down.
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: last.is_file() and read_checkpoint(last)["epoch"] >= 2)
        seen = read_checkpoint(last)["global_step"]
        time.sleep(0.1)  # into the middle of the next epoch
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = read_checkpoint(last)
    epoch, step = killed["epoch"], killed["global_step"]
    assert step >= seen
    assert step == STEPS * (epoch + 1)

    goal = epoch + 3
    run = run_script(
        "train.py", "-cn", "lama-fourier", *arguments[:-1], f"trainer.kwargs.max_epochs={goal}",
        f"trainer.resume_from_checkpoint={last}", "run_title=resumed", f"location.tb_dir={tmp_path / 'tb2'}", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    resumed = read_checkpoint(last)
    assert (resumed["epoch"], resumed["global_step"]) == (goal - 1, STEPS * goal)
    for optimizer in resumed["optimizer_states"]:
        assert {int(state["step"]) for state in optimizer["state"].values()} == {STEPS * goal}

    (events,) = (tmp_path / "tb2").rglob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("train_gen_l1")] == list(range(step, STEPS * goal))
