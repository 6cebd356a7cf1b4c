"""Several ranks in a test: threads of this process, and work for processes of their own, which import it from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed import HashStore

from saicinpainting.io.ranks import Ranks

T = TypeVar("T")


def in_threads(count: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` gives each rank."""
    store = HashStore()
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, [Ranks(rank, count, store) for rank in range(count)]))


def exchange(settings: dict[str, Any], ranks: Ranks) -> None:
    """Writes what rank 0 has got, more than the store takes at once."""
    start = ranks.share(lambda: {"number": 3, "names": ["a", "\udcff"]})
    add = ranks.running_sum()
    add(ranks.rank + 1)
    values = ranks.gather({"rank": ranks.rank, "rows": torch.full((3 << 20,), start["number"] + ranks.rank)})
    if ranks.first:
        about = {"threads": torch.get_num_threads(), "sum": add(0), "start": start, "device": settings["device"]}
        torch.save({"values": values, **about}, settings["file"])


def fail(settings: dict[str, Any], ranks: Ranks) -> None:
    """Rank 1 ends as `how` says, while rank 0 waits for it."""
    if ranks.rank == 1:
        if settings["how"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(28, "No space left on device", "/full")
    ranks.gather(None)


def predict_and_die(settings: dict[str, Any], ranks: Ranks) -> None:
    """`predict`, of which rank 1 is killed within its second batch of four."""
    from saicinpainting.commands.predict import predict
    from saicinpainting.inference import folders

    _die_at(folders, "write_image", 6, ranks)
    predict(settings, ranks)


def evaluate_and_die(settings: dict[str, Any], ranks: Ranks) -> None:
    """`evaluate`, of which rank 1 is killed while it measures, when all is predicted."""
    from saicinpainting.commands.evaluate import evaluate
    from saicinpainting.metrics.evaluator import InpaintingEvaluator

    _die_at(InpaintingEvaluator, "update", 3, ranks)
    evaluate(settings, ranks)


def _die_at(owner: Any, name: str, call: int, ranks: Ranks) -> None:
    original, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def content(folder: Path, pattern: str = "*.png") -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob(pattern))}
