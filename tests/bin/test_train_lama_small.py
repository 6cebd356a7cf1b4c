"""bin/train_lama_small.sh with networks and steps cut down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from saicinpainting.io.checkpoint import read_checkpoint
from tests.helpers import ROOT, photo

PHASES = ("lama-small", "lama-small-large", "lama-small-texture")
SHRUNK = (
    "generator.ngf=24", "generator.n_blocks=1", "discriminator.ndf=4", "losses.perceptual.weight=0",
    "data.num_workers=0", "data.batch_size=2", "data.total_batch_size=null",
    "trainer.kwargs.max_steps=1", "trainer.kwargs.num_sanity_val_steps=0",
    "training_model.average_generator_start_step=1", "training_model.rescale_scheduler_kwargs.values=[64,64,64]",
    "training_model.rescale_scheduler_kwargs.start_iters=[1,2]",
)  # fmt: skip


def train(data: Path, state: Path) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "bin" / "train_lama_small.sh"), str(data), str(state), *SHRUNK]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout + run.stderr


def test_each_phase_starts_from_the_one_before_and_a_second_start_trains_nothing(tmp_path: Path):
    data, state = tmp_path / "data", tmp_path / "state"
    for folder, name in (("train", "astronaut.png"), ("val", "coffee.png")):
        (data / folder).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(photo(name, 320, 10 * i)).save(data / folder / f"{i}.png")
    log = train(data, state)
    last = [state / phase / "models" / "last.ckpt" for phase in PHASES]
    assert [read_checkpoint(file)["global_step"] for file in last] == [1, 1, 1]
    assert [f"fine-tuning from {file}" in log for file in last] == [True, True, False]
    assert log.count("taken: generator (the average of its weights), discriminator") == 2
    weights = [file.read_bytes() for file in last]
    again = train(data, state)
    assert "taken: generator" not in again
    assert [file.read_bytes() for file in last] == weights
