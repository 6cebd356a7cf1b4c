"""A table over the runs of a sweep, or of any folder of runs: what each changed, how it stands, what it reached."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from saicinpainting.config import read_experiment_config
from saicinpainting.io.files import write_whole
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.training.lock import is_going_on
from saicinpainting.training.log_reports import RunLog, best_step, better, judged_by, read_runs
from saicinpainting.utils import InputError

_EVENT = re.compile(r" - (the run:|finished: |stopped: |stopped by )(.*)")


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run of a sweep.

    Args:
        overrides: key -> value, as the command line had them.
        state: `running`, `ended`, `stopped` (by a signal, and saved) or `failed`.
        reason: the last words of its log, of a run that stopped or failed.
        steps: after which something was logged last.
        metric: what it is judged by.
        value: the best of `metric` so far, after `step` steps; None where there is none.
        best: the file that best.ckpt is.
    """

    folder: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    state: str
    reason: str = ""
    steps: int = 0
    metric: str | None = None
    direction: str | None = None
    value: float | None = None
    step: int | None = None
    best: str = ""


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs in `folder`, however deep, in order of their numbers or names.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; expected a sweep's folder, or one with several runs in it")
    files = (*folder.rglob(".hydra/overrides.yaml"), *folder.rglob("train.log"), *folder.rglob("models/last.ckpt"))
    runs = {file.parent if file.name == "train.log" else file.parent.parent for file in files}
    if not runs:
        raise InputError(f"{folder}: no runs in it (folders with .hydra/overrides.yaml, train.log or models/)")
    return sorted(runs, key=lambda run: [(not part.isdigit(), part.zfill(9)) for part in run.parts])


def row_of(run: Path, metric: str | None = None) -> RunRow:
    """What can be told of the run in `run` without loading its checkpoints; `metric`: instead of what it monitors."""
    state, reason = _state(run)
    row: dict[str, Any] = {"folder": run, "overrides": _overrides(run), "state": state, "reason": reason}
    best = run / "models" / "best.ckpt"
    if best.is_file():
        others = (path for path in sorted(best.parent.glob("*.ckpt")) if path != best and path.samefile(best))
        row["best"] = min((path.name for path in others), key=lambda name: name == "last.ckpt", default=best.name)
    monitored = _monitor(run)
    log = _log(run)
    if log is None:
        return RunRow(**row, metric=metric or monitored[0])
    row["steps"] = max(int(series.index[-1]) for series in log.scalars.values()) + 1
    name, direction = (metric, better(metric)) if metric else judged_by(*monitored, log.scalars)
    row |= {"metric": name, "direction": direction}
    if name is not None and name in log.scalars:
        step = best_step(log.scalars[name], direction)
        if step is not None:
            row |= {"value": float(log.scalars[name][step]), "step": step + 1}
    return RunRow(**row)


def _state(run: Path) -> tuple[str, str]:
    if is_going_on(run):
        return "running", ""
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in sorted(run.glob("*.log")))
    events = _EVENT.findall(text)
    if not events:
        return "failed", ""
    kind, words = events[-1]
    if kind == "finished: ":
        return "ended", ""
    if kind == "stopped by ":
        return "stopped", f"by {words.split(';')[0]}"
    return "failed", words if kind == "stopped: " else ""


def _overrides(run: Path) -> dict[str, str]:
    file = run / ".hydra" / "overrides.yaml"
    words = read_yaml(file) if file.is_file() else []
    pairs = (str(word).lstrip("+~").partition("=") for word in words or [])
    return {key: value for key, _, value in pairs}


def _monitor(run: Path) -> tuple[str | None, str | None]:
    try:
        kwargs = (read_experiment_config(run).get("trainer") or {}).get("checkpoint_kwargs") or {}
    except InputError:  # it failed before it wrote its config
        return None, None
    return kwargs.get("monitor"), kwargs.get("mode")


def _log(run: Path) -> RunLog | None:
    try:
        return read_runs(run)[0]
    except InputError:  # nothing was logged
        return None


# ---- table ---------------------------------------------------------------------------------------------------------


def sweep_table(folder: Path, metric: str | None = None) -> pd.DataFrame:
    """A row a run, the best first and those without a value last; a column for each override that runs differ in."""
    runs = [row_of(run, metric) for run in find_runs(folder)]
    judged = [run for run in runs if run.metric is not None and run.value is not None]
    name, direction = (judged[0].metric, judged[0].direction) if judged else (metric or runs[0].metric, None)
    rows = []
    for run in runs:
        row: dict[str, Any] = {"run": str(run.folder.relative_to(folder)) if run.folder != folder else folder.name}
        row |= {key: run.overrides.get(key, "") for key in _changed(runs)}
        row |= {"state": run.state, "steps": run.steps}
        own = run.metric == name
        row |= {name or "value": run.value if own else None, "after": run.step if own else None}
        rows.append({**row, "best checkpoint": run.best, "why": run.reason})
    table = pd.DataFrame(rows).astype({"after": "Int64"})
    table[name or "value"] = table[name or "value"].astype(float)
    return table.sort_values(
        name or "value", ascending=direction != "max", na_position="last", kind="stable", ignore_index=True
    )


def _changed(runs: Sequence[RunRow]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def as_markdown(table: pd.DataFrame) -> str:
    text = table.astype(object).where(table.notna(), "")
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in text.to_numpy()]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def write_sweep_table(table: pd.DataFrame, path: Path) -> None:
    """As `.md` or `.csv`."""
    if path.suffix not in (".md", ".csv"):
        raise InputError(f"{path}: expected a name in .md or .csv")
    write_whole(path, as_markdown(table) if path.suffix == ".md" else table.to_csv(index=False))
