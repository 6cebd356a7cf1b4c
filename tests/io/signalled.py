"""Run by test_signals.py: a process that hears signals as a command does, and what it is doing when one comes.

Usage: signalled.py STATE [PARENT]. Prints its process's number when it is ready.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from saicinpainting.io import signals
from saicinpainting.io.signals import StopSignals

SIGNALS = StopSignals()
SIGNALS.watch()


def starts_with_a_rank() -> None:
    """Prints the rank's number besides."""
    rank = subprocess.Popen([sys.executable, __file__, "starts"])
    SIGNALS.before_leaving(rank.kill)
    rank.wait()


def starts() -> None:
    ready()


def waits_for_a_rank_in_c() -> None:
    import torch.distributed

    ready()
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=2)


def trains() -> None:
    """Ends with the step in which the signal comes, unless a second Ctrl-C ends it before."""
    SIGNALS.save_first()
    ready()
    while SIGNALS.received is None:
        time.sleep(0.01)
    time.sleep(1)
    SIGNALS.end_with(75, soon=True)
    print(f"saved after {SIGNALS.received}", flush=True)
    time.sleep(1)
    sys.exit(75)


def hangs_when_it_has_saved() -> None:
    signals.GRACE = 0.5
    SIGNALS.end_with(75, soon=True)
    ready()


def is_over() -> None:
    """Still to be signalled; its end takes longer than it may after a signal."""
    signals.GRACE = 0.5
    SIGNALS.end_with(0)
    ready()


def ends_meanwhile() -> None:
    SIGNALS.end_with(75, soon=True)
    import atexit

    atexit.register(time.sleep, 1)
    ready()
    sys.exit(75)


def ready() -> None:
    import os

    print(os.getpid(), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    time.sleep(60)
    print("nothing has ended it", flush=True)
