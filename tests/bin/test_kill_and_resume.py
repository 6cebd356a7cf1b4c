"""Runs that are killed, or told to stop, as processes; the same command goes on with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.config import read_experiment_config, register_resolvers
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.io.signals import EXIT_STATUS
from saicinpainting.training.load import load_checkpoint
from saicinpainting.training.run import make_data_module
from tests.helpers import ROOT, assert_same, run_script, shrunk, write_data

STEPS = 8  # sixteen images in batches of two
IMAGES = 32  # of the runs that are told to stop, in batches of one


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


def test_a_killed_run_of_folders_with_shares_is_the_undisturbed_run(tmp_path: Path):
    write_data(tmp_path / "data", train_images=6)
    (tmp_path / "data" / "mine (2)").mkdir()
    for i in range(3):
        (tmp_path / "data" / "train" / f"{i}.png").rename(tmp_path / "data" / "mine (2)" / f"{i}.png")
    words = [
        *("-cn", "lama-fourier"),
        *shrunk(tmp_path, "data.train.indir={train: .75, mine (2): .25}", "+data.train.epoch_images=16"),
        *("data.num_workers=1", "trainer.kwargs.max_epochs=2", "training_model.visualize_each_iters=1"),
        *("trainer.checkpoint_kwargs.every_n_train_steps=3", "trainer.resume_from_checkpoint=auto"),
    ]
    command = [sys.executable, str(ROOT / "bin" / "train.py"), *words, f"hydra.run.dir={tmp_path / 'killed'}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=log, stderr=log)
    try:
        wait_for((tmp_path / "killed/samples/epoch0000_train/batch0000004.jpg").is_file, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= read_checkpoint(tmp_path / "killed/models/last.ckpt")["global_step"] < STEPS
    for name in ("killed", "whole"):
        done = run_script("train.py", *words, f"hydra.run.dir={tmp_path / name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "75.0%, 12 of an epoch's 16 images" in (tmp_path / "whole" / "train.log").read_text()
    ours, expected = (read_checkpoint(tmp_path / name / "models" / "last.ckpt") for name in ("killed", "whole"))
    assert expected["global_step"] == 2 * STEPS
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same(ours[part], expected[part], part)


def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_run(tmp_path: Path):
    """SIGKILL at random moments, every other one in the middle of writing; LAMA_KILLS=50 for as many as that."""
    script = Path(__file__).with_name("killed_run.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), os.environ.get("LAMA_KILLS", "10")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    assert "while a checkpoint was written 0" not in run.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc")
def test_runs_that_are_told_to_stop_at_random_moments_are_the_undisturbed_run(tmp_path: Path):
    """In validations, too, with workers; LAMA_SIGNALS=40 for as many signals as that, with two ranks besides."""
    script = Path(__file__).with_name("stopped_run.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), os.environ.get("LAMA_SIGNALS", "3")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, timeout=3600,
    )  # fmt: skip
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-1000:]


def process_of_rank(process: subprocess.Popen, rank: int) -> int:
    """The process that Lightning has started for `rank`."""
    if rank == 0:
        return process.pid
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"LOCAL_RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stopped")
    write_data(root / "data", train_images=IMAGES, val_images=3)
    for i in (1, 2):  # fewer images than processes
        (root / "data" / "visual_test" / f"{i}_mask000.png").unlink()
    return root


def stopped_run(data: Path, name: str, devices: int) -> list[str]:
    return shrunk(
        data, f"hydra.run.dir={data / name}", "training_model.visualize_each_iters=1", "data.num_workers=1",
        f"trainer.kwargs.devices={devices}", "data.batch_size=1", "trainer.kwargs.max_epochs=2",
        "trainer.resume_from_checkpoint=auto",
    )  # fmt: skip


def finish(data: Path, name: str, devices: int) -> dict[str, Any]:
    run = run_script("train.py", "-cn", "lama-fourier", *stopped_run(data, name, devices), cwd=data)
    assert run.returncode == 0, run.stderr
    return read_checkpoint(data / name / "models" / "last.ckpt")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize(
    ("devices", "who", "number"), [(1, "all", signal.SIGUSR1), (1, "all", signal.SIGINT), (2, 1, signal.SIGTERM)]
)
def test_a_run_that_is_told_to_stop(data: Path, devices: int, who: int | str, number: signal.Signals):
    """The signal reaches all processes, data loaders among them, or one; none hangs, nothing is lost."""
    name = f"stopped_{number.name}_{devices}"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", *stopped_run(data, name, devices)],
        cwd=data, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"},
    )  # fmt: skip
    try:
        wait_for((data / name / "samples" / "epoch0000_train" / "batch0000001.jpg").is_file, process)
        if who == "all":
            os.killpg(process.pid, number)
        else:
            os.kill(process_of_rank(process, int(who)), number)
        assert process.wait(60) == EXIT_STATUS
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    stopped = read_checkpoint(data / name / "models" / "last.ckpt")
    assert 2 <= stopped["global_step"] < IMAGES // devices  # in the first epoch
    assert "last.ckpt is written" in (data / name / "train.log").read_text()

    ours, expected = finish(data, name, devices), finish(data, f"whole_{devices}", devices)
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same(ours[part], expected[part], part)


def test_two_processes_validate_three_images_as_one_does(data: Path):
    """Two images here, one there: every mean is over the three."""
    name = "whole_2"
    if not (data / name / "models" / "last.ckpt").is_file():
        finish(data, name, 2)
    (events,) = (data / "tb" / name).rglob("events*")
    board = EventAccumulator(str(events))
    board.Reload()

    register_resolvers()
    settings = read_experiment_config(data / name)
    settings.visualizer.outdir = str(data / "alone")  # as in the config it would be written to the working directory
    model = load_checkpoint(settings, data / name / "models" / "last.ckpt", strict=True)
    alone = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    alone.validate(model, datamodule=make_data_module(OmegaConf.to_container(settings)), verbose=False)
    metrics = {key: float(v) for key, v in alone.callback_metrics.items() if key.startswith(("val_", "test_"))}
    assert {"val_ssim_total_mean", "val_gen_l1", "test_ssim_total_mean"} <= metrics.keys()
    for name_of_metric, value in metrics.items():
        assert board.Scalars(name_of_metric)[-1].value == pytest.approx(value, rel=1e-5), name_of_metric
