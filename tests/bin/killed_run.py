"""Kill a run again and again: `killed_run.py FOLDER KILLS [SEED]`; run by test_kill_and_resume.py.

This process imports everything once and forks every life of the run from itself, so that a life takes less than a
second. A life ends with SIGKILL: at a random moment, or while it writes a checkpoint. In the end the run must have the
weights of one that nobody disturbed. Prints one line: kills, kills while a checkpoint was being written, seconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.run import train
from tests.helpers import assert_same, write_data
from tests.runs import compose_run

STEPS = 8  # of an epoch: sixteen images in batches of two
SAVE_EVERY = 2  # steps
MOST_WRITES = 3  # of a life, before it is killed


def start(root: Path, name: str, epochs: int) -> int:
    """Fork the run `name`; the process's number."""
    process = os.fork()
    if process:
        return process
    with open(root / f"{name}.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        config = compose_run(
            root,
            f"trainer.kwargs.max_epochs={epochs}",
            f"location.tb_dir={root / 'tb'}",
            f"trainer.checkpoint_kwargs.every_n_train_steps={SAVE_EVERY}",
            "trainer.resume_from_checkpoint=auto",
            "+trainer.kwargs.enable_progress_bar=false",
            "training_model.visualize_each_iters=1000",
        )
        train(config, root / name)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def finish(process: int, log: Path) -> None:
    _, status = os.waitpid(process, 0)
    assert status == 0, log.read_text()[-3000:]


def kill_at_random(process: int, models: Path, rng: random.Random) -> bool:
    """Kill after a few checkpoints, some while they are written; whether a half-written one was left behind."""
    writes, in_a_write = rng.randint(0, MOST_WRITES), rng.random() < 0.5
    moment = rng.uniform(0, 0.5 if writes == 0 else 0.1)  # seconds; the start of a life takes about half of one
    last, deadline = models / "last.ckpt", time.monotonic() + 60
    before = last.stat().st_mtime_ns if last.exists() else 0
    while writes and time.monotonic() < deadline:
        if last.exists() and last.stat().st_mtime_ns != before:
            before, writes = last.stat().st_mtime_ns, writes - 1
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the run ended by itself"
        time.sleep(0.0005)
    if in_a_write:
        while not any(models.glob("*.part")) and time.monotonic() < deadline:
            time.sleep(0.0002)
        moment = rng.uniform(0, 0.003)
    time.sleep(moment)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return any(models.glob("*.part"))


def main(root: Path, kills: int, seed: int) -> None:
    rng, began = random.Random(seed), time.monotonic()
    write_data(root / "data", train_images=2 * STEPS)
    # A life ends at most one checkpoint after those that are counted.
    epochs = 1 + kills * (MOST_WRITES + 2) * SAVE_EVERY // STEPS
    models = root / "killed" / "models"
    in_writes = 0
    for _ in range(kills):
        in_writes += kill_at_random(start(root, "killed", epochs), models, rng)
        if (models / "last.ckpt").exists():
            read_checkpoint(models / "last.ckpt")  # which compares checksums
    # What is left of the run may be long; a few epochs more are enough to see that it goes on.
    epochs = min(epochs, int(read_checkpoint(models / "last.ckpt")["epoch"]) + 3)
    for name in ("killed", "undisturbed"):
        finish(start(root, name, epochs), root / f"{name}.log")
    killed, expected = (read_checkpoint(root / name / "models" / "last.ckpt") for name in ("killed", "undisturbed"))
    assert expected["global_step"] == epochs * STEPS
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same(killed[part], expected[part], part)
    assert not list(models.glob("*.part"))
    print(f"kills {kills}, while a checkpoint was written {in_writes}, seconds {time.monotonic() - began:.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
