"""Forty images of five sizes by two processes: what one makes of them, also after a kill and under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.commands.evaluate import evaluate
from saicinpainting.commands.predict import predict
from saicinpainting.io.ranks import Ranks, run_ranks
from saicinpainting.utils import InputError
from tests.helpers import ROOT, is_running, photo, run_script, write_run
from tests.ranks import content, evaluate_and_die, predict_and_die

SIZES = ((40, 56), (64, 64), (33, 50), (64, 48), (72, 40))
TABLES = ("results.csv", "images.csv")
KILLED = r"rank 1 of 2 \(cpu\) was killed by SIGKILL, .*What is computed stays: the same command goes on from there"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its images, and what one process makes of them."""
    root = tmp_path_factory.mktemp("devices")
    write_run(root)
    (root / "in").mkdir()
    for i in range(40):
        height, width = SIZES[i * 7 % 5]
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 10 + i % 20, 8:25] = 255
        Image.fromarray(photo("astronaut.png", 96, i)[:height, :width]).save(root / "in" / f"{i:03}.png")
        Image.fromarray(mask).save(root / "in" / f"{i:03}_mask000.png")
    predict(settings_of("prediction", root, "devices=1"), Ranks())
    evaluate(settings_of("evaluation", root, "devices=1"), Ranks())
    return root


def arguments(group: str, root: Path, *extra: str) -> list[str]:
    common = [f"model.path={root / 'run'}", "device=cpu", "batch_size=4", "num_workers=1", "devices=2"]
    own = [f"indir={root / 'in'}", f"outdir={root / 'one'}"]
    if group == "evaluation":
        own = [f"sets=[{root / 'in'}]", f"outdir={root / 'evaluation'}", "metrics=[ssim,psnr,l1]", "examples=1"]
    return [*common, *own, *extra]


def settings_of(group: str, root: Path, *extra: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "configs" / group), version_base="1.3"):
        config = compose("default", arguments(group, root, *extra))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def test_two_processes_predict_what_one_does_after_one_was_killed(root: Path, tmp_path: Path) -> None:
    outdir = f"outdir={tmp_path / 'out'}"
    with pytest.raises(InputError, match=KILLED):
        run_ranks(predict_and_die, settings_of("prediction", root, outdir))
    begun = content(tmp_path / "out")
    assert 0 < len(begun) < 40
    run = run_script("predict.py", *arguments("prediction", root, outdir), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"{40 - len(begun)} images written, {len(begun)} were there already: {tmp_path / 'out'}" in run.stdout
    assert "40/40" in run.stderr or f"{40 - len(begun)}/{40 - len(begun)}" in run.stderr  # one bar over both
    assert content(tmp_path / "out") == content(root / "one")
    assert {file.name for file in (tmp_path / "out").glob(".*")} == {".predicted.json", ".predicted.jsonl"}
    again = run_script("predict.py", *arguments("prediction", root, outdir), cwd=tmp_path)
    assert "0 images written, 40 were there already" in again.stdout


def test_two_processes_evaluate_as_one_does_after_one_was_killed(root: Path, tmp_path: Path) -> None:
    outdir = f"outdir={tmp_path / 'out'}"
    with pytest.raises(InputError, match=KILLED):
        run_ranks(evaluate_and_die, settings_of("evaluation", root, outdir))
    ours, expected = tmp_path / "out" / "run", root / "evaluation" / "run"
    assert not (ours / "results.csv").exists()
    run = run_script("evaluate.py", *arguments("evaluation", root, outdir), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("metrics of in") == run.stdout.count("tables and report") == 1
    for name in TABLES:
        assert (ours / name).read_text() == (expected / name).read_text()
    assert content(ours / "predictions") == content(expected / "predictions")


def test_under_torchrun(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(ROOT / "bin" / "predict.py")]
    arguments_of_both = arguments("prediction", root, f"outdir={tmp_path / 'out'}", "devices=1")
    run = subprocess.run(
        [*command, *arguments_of_both], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("40 images written: ") == 1
    assert content(tmp_path / "out") == content(root / "one")


def test_settings_that_are_wrong_are_told_once(root: Path, tmp_path: Path) -> None:
    run = run_script("predict.py", *arguments("prediction", root, "precision=fp8"), cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr == "error: precision: unknown value 'fp8'; known: bf16, fp16, fp32\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_all(root: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C reaches all processes, readers of images among them; the others the one that has started the ranks."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / "predict.py"),
         *arguments("prediction", root, f"outdir={tmp_path / 'out'}")],
        cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"},
        # Tests that a shell has put into the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "out" / ".predicted.json").exists() and process.poll() is None:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    # A reader whose rank is gone before it was told what to do says that in Python's own words, and nothing else does.
    expected = errors.count("in spawn_main") if number == signal.SIGKILL else 0
    assert errors.count("Traceback") == expected
    while any(is_running(child) for child in children):
        time.sleep(0.05)
