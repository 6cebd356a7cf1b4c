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

STEPS = 8  # sixteen images in batches of two


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "the run has not come so far"
        time.sleep(0.01)


def test_a_killed_run_resumes(tmp_path: Path):
    write_data(tmp_path / "data", train_images=2 * STEPS)
    models, samples = tmp_path / "run" / "models", tmp_path / "run" / "samples"
    last = models / "last.ckpt"
    arguments = shrunk(tmp_path, f"hydra.run.dir={tmp_path / 'run'}", "training_model.visualize_each_iters=1")
    command = [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", *arguments]
    # Its own session: workers and the run itself die at once, as with a machine that goes down.
    process = subprocess.Popen(
        [*command, "trainer.kwargs.max_epochs=1000"], cwd=tmp_path, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # A picture is written after every step: these are steps of the third epoch, past the checkpoint of the second.
    in_the_middle = samples / "epoch0002_train" / "batch0000002.jpg"
    try:
        wait_for(in_the_middle.is_file, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (samples / "epoch0002_train" / f"batch{STEPS - 1:07d}.jpg").exists()  # killed between two checkpoints
    killed = read_checkpoint(last)
    assert (killed["epoch"], killed["global_step"]) == (1, 2 * STEPS)

    run = run_script(
        "train.py", "-cn", "lama-fourier", *arguments, "trainer.kwargs.max_epochs=4",
        f"trainer.resume_from_checkpoint={last}", f"location.tb_dir={tmp_path / 'tb2'}", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    resumed = read_checkpoint(last)
    assert (resumed["epoch"], resumed["global_step"]) == (3, 4 * STEPS)
    for optimizer in resumed["optimizer_states"]:
        assert {int(state["step"]) for state in optimizer["state"].values()} == {4 * STEPS}

    (events,) = (tmp_path / "tb2").rglob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("train_gen_l1")] == list(range(2 * STEPS, 4 * STEPS))
