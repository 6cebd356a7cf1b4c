"""Loaders' processes, and signals that are meant for their run."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from saicinpainting.data.datasets import make_dataloader
from saicinpainting.io.signals import SIGNALS


class Numbers(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(i)


def signal_from_outside(numbers: list[int], processes: list[int]) -> None:
    """By a process that is not their parent."""
    code = "import os, sys; [os.kill(int(p), int(n)) for n in sys.argv[1].split() for p in sys.argv[2].split()]"
    arguments = [" ".join(map(str, numbers)), " ".join(map(str, processes))]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_workers_outlive_the_scheduler_s_signals_and_end_with_their_parent_s(method: str):
    settings = {"num_workers": 2, "multiprocessing_context": method}
    loader = make_dataloader(Numbers(), settings, where="data.train")
    batches = iter(loader)
    # At once: a worker may not have come to the first line of its own yet.
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    signal_from_outside(list(SIGNALS), [worker.pid for worker in workers])
    assert [int(batch) for batch in batches] == list(range(8))
    signal_from_outside(list(SIGNALS), [worker.pid for worker in workers])
    assert [int(batch) for batch in loader] == list(range(8))  # the same workers, which persist
    assert multiprocessing.active_children() == workers
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + 30
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
        assert worker.exitcode == 0
