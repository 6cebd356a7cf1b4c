"""Which checkpoint of a run is the best, by any metric that validation logged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.log_reports import RunLog, best_step
from saicinpainting.utils import InputError

BEST, LAST = "best.ckpt", "last.ckpt"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint and what is known of it; `value` is None where it was not validated, as `note` says."""

    path: Path
    epoch: int | None
    steps: int | None  # batches trained on
    value: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The checkpoints of a run by `metric`, the best first, those without a value at the end.

    `is_best` is the one that best.ckpt is, or is a copy of, if any; `lost` the logged value, and the number of steps
    before it, that is better than every checkpoint's.
    """

    metric: str
    direction: str
    candidates: list[Candidate]
    is_best: Candidate | None
    lost: tuple[float, int] | None

    @property
    def best(self) -> Candidate | None:
        first = self.candidates[0]
        return first if first.value is not None else None


def rank_checkpoints(models: Path, metric: str, direction: str, log: RunLog | None) -> Ranking:
    """Rank `models/*.ckpt` by `metric`, of which `direction` (`max`, `min`) is better.

    A checkpoint's value is what was logged after the last batch it was trained on. Without `log` it is the score that
    ModelCheckpoint left in the files, if it monitored this metric.

    Raises:
        InputError: no checkpoints, a metric that was not logged.
    """
    files = sorted(models.glob("*.ckpt"))
    if not files:
        raise InputError(f"{models}: no checkpoints in it (*.ckpt); expected the folder models/ of a run")
    best = models / BEST
    links = [path for path in files if path != best and best.is_file() and path.samefile(best)]
    read = {path: _read(path) for path in files if path != best or not links}
    series = log.series(metric) if log else None
    values = {} if series is None else dict(series.items())
    scores = {} if log else _monitored_scores(read, metric)
    found = {path: _candidate(path, content, values, scores) for path, content in read.items()}
    own = found.pop(best, None)
    alike = [c for c in found.values() if c.path in links or (own and own.steps is not None and c.steps == own.steps)]
    # The file that stays rather than last.ckpt, which the next epoch overwrites.
    is_best = min(alike, key=lambda c: c.path.name == LAST, default=own)
    if is_best is own and own is not None:  # a row of its own only where no other file holds the same weights
        found[best] = own
    sign = -1 if direction == "max" else 1
    candidates = sorted(
        found.values(), key=lambda c: (c.value is None, sign * (c.value or 0), c.path.name == LAST, c.path.name)
    )
    kept, step = candidates[0].value, None if series is None else best_step(series, direction)
    lost = None
    # A value is logged under the number of batches before the one that validation follows.
    if step is not None and kept is not None and sign * values[step] < sign * kept:
        lost = values[step], step + 1
    return Ranking(metric=metric, direction=direction, candidates=candidates, is_best=is_best, lost=lost)


def _read(path: Path) -> dict[str, Any] | None:
    """Counters and callbacks of a checkpoint; None where it cannot be read, which others need not suffer from."""
    try:
        content = read_checkpoint(path)
    except InputError:
        return None
    return {name: value for name, value in content.items() if name not in ("state_dict", "optimizer_states")}


def steps_of(content: Mapping[str, Any]) -> int | None:
    """Batches the run had trained on when it wrote the checkpoint.

    Lightning before 1.6, which wrote the published ones, counts them in `global_step`. Later `global_step` counts steps
    of optimizers, as many as both take in runs of the official code, but the loops' own state counts batches.
    """
    try:
        return int(content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"])
    except (KeyError, TypeError):
        steps = content.get("global_step")
        return steps if isinstance(steps, int) else None


def epoch_of(path: Path, content: Mapping[str, Any]) -> int | None:
    """The epoch, counted from 0, after which the checkpoint was written, as its name has it."""
    named = re.match(r"epoch=(\d+)", path.name)
    if named:
        return int(named[1])
    epoch = content.get("epoch")
    # Lightning before 1.5 wrote the next epoch's number into the file.
    return (epoch if "loops" in content else epoch - 1) if isinstance(epoch, int) else None


def _candidate(
    path: Path, content: dict[str, Any] | None, values: Mapping[int, float], scores: Mapping[str, float]
) -> Candidate:
    if content is None:
        return Candidate(path=path, epoch=None, steps=None, value=None, note="cannot be read")
    steps, epoch = steps_of(content), epoch_of(path, content)
    value = scores.get(path.name, values.get(steps - 1) if steps is not None else None)
    note = "no value at its step" if steps is not None else "does not say its step"
    if value is not None:
        finite = math.isfinite(value)
        value, note = (value, "") if finite else (None, f"its value is {value}")
    return Candidate(path=path, epoch=epoch, steps=steps, value=value, note=note)


def _monitored_scores(read: Mapping[Path, dict[str, Any] | None], metric: str) -> dict[str, float]:
    """File name -> value of `metric`, from ModelCheckpoint's state in the files, of Lightning 1 and 2."""
    scores: dict[str, float] = {}
    for path, content in read.items():
        for state in ((content or {}).get("callbacks") or {}).values():
            if not isinstance(state, Mapping) or state.get("monitor") != metric:
                continue
            scores |= {Path(name).name: float(score) for name, score in (state.get("best_k_models") or {}).items()}
            # Of the checkpoint that was written, except in last.ckpt: there it is of the last one that was good enough.
            if path.name != LAST and state.get("current_score") is not None:
                scores[path.name] = float(state["current_score"])
    return scores


def ranking_text(ranking: Ranking) -> str:
    """The ranking as a table for the screen, and what it says about best.ckpt."""
    rows = [
        {
            "checkpoint": c.path.name,
            "epoch": c.epoch,
            "steps": c.steps,
            "value": c.value,
            "": f"= {BEST}" if c is ranking.is_best and c.path.name != BEST else c.note,
        }
        for c in ranking.candidates
    ]
    table = pd.DataFrame(rows, index=range(1, len(rows) + 1), dtype=object).fillna("-")
    lines = [f"{ranking.metric}, the {'highest' if ranking.direction == 'max' else 'lowest'} first"]
    lines.append(table.to_string(float_format="{:.6g}".format))
    if ranking.lost:
        lost, after = ranking.lost
        lines.append(f"better than all of them was {lost:.6g} after {after} steps; no checkpoint of it is left")
    return "\n".join([*lines, _verdict(ranking)])


def _verdict(ranking: Ranking) -> str:
    if ranking.best is None:
        return "none of them has a value"
    name, now = ranking.best.path.name, ranking.is_best
    if now is None:
        return f"the best is {name}; there is no {BEST}"
    if now.value == ranking.best.value:
        return f"{BEST} is the best"
    return f"the best is {name}; {BEST} is {'another' if now.path.name == BEST else now.path.name}"
