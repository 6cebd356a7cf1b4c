"""Tell runs to stop at random moments: `stopped_run.py FOLDER SIGNALS [SEED]`; run by test_kill_and_resume.py.

Each trial is a run of its own by bin/train.py: a signal (or two, as schedulers send them) to all of its processes or
to one, the status it ends with, and the same command again, after which the run must be the one that nobody stopped:
weights, optimizers, counters, logged values, files. Most starts are forked from this process, which has imported
everything, so that they take less than a second; every fifth and all second ranks start anew.

Prints a line for each trial and one for all.
"""

from __future__ import annotations

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.io.signals import EXIT_STATUS
from tests.helpers import ROOT, shrunk, write_data
from tests.runs import assert_same_run

SCRIPT = ROOT / "bin" / "train.py"
SECONDS = 60
"""A loaded machine's; by far the most take two."""
LEFT_SECONDS = 15
"""So long other processes of a run may outlive it: loaders look for it every five seconds."""
IMAGES, EVALUATED = 16, 5  # of training, in batches of two in all; of each of two evaluation sets
WORKERS = (0, 1, 2, 4, 8)
EVERYONE, ONE, SECOND_RANK = "all", "one", "rank 1"


@dataclass(frozen=True)
class Trial:
    ranks: int
    strategy: str
    workers: int
    number: signal.Signals
    to: str
    images: int  # written before the signal comes; 0: it comes while the run starts
    wait: float  # seconds after that
    again: float | None  # seconds to a second signal
    cold: bool

    @classmethod
    def draw(cls, i: int, rng: random.Random, images: dict[int, int]) -> Trial:
        """Any moment between two steps or batches of a validation is as likely; every sixth is in the start."""
        ranks = 2 if i % 4 == 3 and 2 in images else 1
        number = rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
        starts = rng.random() < 1 / 6
        strategy = rng.choice(("ddp", "ddp", "ddp_fork")) if ranks > 1 else "auto"
        return cls(
            ranks=ranks,
            strategy=strategy,
            workers=rng.choice(WORKERS),
            number=number,
            to=rng.choice((EVERYONE, ONE, SECOND_RANK) if strategy == "ddp" else (EVERYONE, ONE)),
            images=0 if starts else rng.randint(1, images[ranks]),
            wait=rng.uniform(0, 4.0 * ranks if starts else 0.2),
            # A second Ctrl-C means something else: not to wait.
            again=rng.uniform(0, 0.5) if number != signal.SIGINT and rng.random() < 0.25 else None,
            cold=i % 5 == 4,
        )

    def __str__(self) -> str:
        moment = f"{self.images} images" if self.images else "start"
        twice = "" if self.again is None else " twice"
        ranks = f"{self.ranks} ranks ({self.strategy})" if self.ranks > 1 else "1 rank"
        kind = f"{ranks}, {self.workers} workers{', cold' * self.cold}"
        return f"{kind}: {self.number.name}{twice} to {self.to} {self.wait:.2f} s after {moment}"


def start(root: Path, name: str, ranks: int, workers: int, *, strategy: str = "auto", cold: bool = False) -> int:
    """Start bin/train.py in a session of its own; its process, which leads a group."""
    command = [
        str(SCRIPT), "-cn", "lama-fourier",
        *shrunk(
            root, f"hydra.run.dir={root / name}", f"trainer.kwargs.devices={ranks}",
            f"trainer.kwargs.strategy={strategy}", f"data.num_workers={workers}",
            f"data.batch_size={2 // ranks}", "data.val_batch_size=1", "trainer.kwargs.max_epochs=2",
            "trainer.kwargs.val_check_interval=4", "trainer.kwargs.num_sanity_val_steps=1",
            "trainer.checkpoint_kwargs.every_n_train_steps=3", "trainer.resume_from_checkpoint=auto",
            "training_model.visualize_each_iters=1", "+trainer.kwargs.enable_progress_bar=false",
        ),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"}
    with open(root / f"{name}.log", "a") as log:
        if cold:
            return subprocess.Popen(
                [sys.executable, *command], cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
            ).pid
        process = os.fork()
        if process:
            return process
        os.setsid()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(root)
    os.environ.update(environment)
    sys.argv = command
    runpy.run_path(str(SCRIPT), run_name="__main__")
    sys.exit()  # what the script raises ends this process, too


def wait_for(process: int, seconds: float) -> int | None:
    """The status of a process; None if it has not ended in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def finish(root: Path, name: str, ranks: int, workers: int = 0) -> None:
    status = wait_for(start(root, name, ranks, workers), 600)
    assert status == 0, f"{name} ended with {status}\n{(root / f'{name}.log').read_text()[-3000:]}"


def images_of(run: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(run / "samples"))


def lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def hears(process: int) -> bool:
    """Whether it has come to the first line of its command, which handles signals."""
    caught = Path(f"/proc/{process}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def second_rank(process: int) -> int:
    """The process of rank 1, or of rank 0 where that has not started it yet."""
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        try:
            if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") and hears(int(child)):
                return int(child)
        except OSError:  # it has ended
            continue
    return process


def send(trial: Trial, process: int) -> None:
    if trial.to == EVERYONE:
        os.killpg(process, trial.number)
    else:
        os.kill(second_rank(process) if trial.to == SECOND_RANK else process, trial.number)


def stop(root: Path, name: str, trial: Trial) -> tuple[int, float] | None:
    """Start a run and stop it; its status and how long it took to end. None: it was over before."""
    process = start(root, name, trial.ranks, trial.workers, strategy=trial.strategy, cold=trial.cold)
    deadline = time.monotonic() + 300
    try:
        while not hears(process) or images_of(root / name) < trial.images:
            assert time.monotonic() < deadline, "the run has not come so far"
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise AssertionError(f"the run ended by itself\n{(root / f'{name}.log').read_text()[-3000:]}")
            time.sleep(0.002)
        time.sleep(trial.wait)
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            os.waitpid(process, 0)
            return None
        began = time.monotonic()
        send(trial, process)
        if trial.again is not None:
            time.sleep(trial.again)
            if lives(process):
                send(trial, process)
        status = wait_for(process, SECONDS)
        seconds = time.monotonic() - began
        assert status is not None, f"{trial}: still there after {SECONDS} s"
        while lives(process):
            assert time.monotonic() - began < seconds + LEFT_SECONDS, f"{trial}: processes are left"
            time.sleep(0.05)
        return status, seconds
    finally:
        if lives(process):
            os.killpg(process, signal.SIGKILL)


def where_it_stopped(log: str) -> str:
    for words, where in (
        ("before the first step", "in the start"),
        ("in a validation after", "in a validation"),
        ("stopped by", "in training"),
    ):
        if words in log:
            return where
    return "at the end"


def main(root: Path, signals: int, seed: int) -> None:
    rng, began = random.Random(seed), time.monotonic()
    write_data(root / "data", train_images=IMAGES, val_images=EVALUATED)
    images = {}
    for ranks in (1, 2) if signals >= 4 else (1,):
        finish(root, f"whole{ranks}", ranks)
        images[ranks] = images_of(root / f"whole{ranks}")
    places: Counter[str] = Counter()
    times = []
    while len(times) < signals:
        i = len(times)
        trial = Trial.draw(i, rng, images)
        name = f"run{i}_{rng.randrange(1000)}"
        stopped = stop(root, name, trial)
        if stopped is None:
            continue
        status, seconds = stopped
        log = (root / f"{name}.log").read_text()
        where = where_it_stopped(log)
        print(f"{i + 1}: {trial}: {where}, status {status} in {seconds:.1f} s", flush=True)
        assert status == (0 if where == "at the end" else EXIT_STATUS), log[-3000:]
        assert "Traceback" not in log, log[-3000:]
        if where == "at the end":
            assert_same_run(root, name, f"whole{trial.ranks}")
        finish(root, name, trial.ranks, rng.choice(WORKERS[:3]))
        assert_same_run(root, name, f"whole{trial.ranks}")
        places[where] += 1
        times.append(seconds)
    assert read_checkpoint(root / "whole1" / "models" / "last.ckpt")["global_step"] == IMAGES
    print(
        f"signals {signals}: {', '.join(f'{n} {where}' for where, n in sorted(places.items()))}; all ended with their "
        f"status, in {sorted(times)[len(times) // 2]:.1f} s (median) to {max(times):.1f} s, and all were resumed "
        f"exactly; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
