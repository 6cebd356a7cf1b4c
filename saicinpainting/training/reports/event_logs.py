"""Reading TensorBoard's files back: the scalars of a run, over all its starts."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from saicinpainting.config import read_experiment_config
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
EVENT_FILES = "events.out.tfevents*"

# What loggers write besides, at steps of their own.
_NO_METRICS = ("hp_metric", "epoch")

# Names in which one direction is better, the first that fits. One batch of training says nothing about the best step.
_DIRECTIONS = (
    (re.compile(r"^train_|_std$"), None),
    (re.compile(r"_(ssim|ssim_fid100_f1|lpips_fid100_f1)(_|$)"), "max"),
    (re.compile(r"_(lpips|fid)(_|$)"), "min"),
    (re.compile(r"_gen_(l1|fm|pl|resnet_pl)$"), "min"),
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """The values of one tag by step, steps rising."""

    steps: list[int]
    values: list[float]

    def best(self, direction: str | None) -> int | None:
        """Index of the best value, the earliest of equal ones; None without a direction or a finite value."""
        finite = [index for index, value in enumerate(self.values) if math.isfinite(value)]
        if direction is None or not finite:
            return None
        return (max if direction == "max" else min)(finite, key=lambda index: self.values[index])


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """What TensorBoard's files say about one run.

    `restarts` are files that begin before everything in the files before them, which was left out therefore.
    """

    name: str
    scalars: Mapping[str, Series]
    restarts: list[Path] = field(default_factory=list)

    def series(self, tag: str) -> Series:
        if tag not in self.scalars:
            shown = [name for name in self.scalars if not is_hidden(name)]
            raise InputError(f"{self.name}: {tag} was not logged; {did_you_mean(tag, shown)}")
        return self.scalars[tag]


def better(tag: str) -> str | None:
    """`max` or `min`, whichever is better for the values of `tag`; None where neither is."""
    for pattern, direction in _DIRECTIONS:
        if pattern.search(tag):
            return direction
    return None


def is_hidden(tag: str) -> bool:
    """Bins of hole share, which start with an underscore (with `extra_val_`, they do not), and deviations."""
    return tag.startswith("_") or tag.endswith("_std") or ("%" in tag)


def select_tags(known: Iterable[str], patterns: Iterable[str] = ()) -> list[str]:
    """The tags that fit one of `patterns` (`val_*`), in reading order; without patterns all that are not hidden."""
    known = sorted(known, key=_reading_order)
    patterns = list(patterns)
    if not patterns:
        return [tag for tag in known if not is_hidden(tag)]
    for pattern in patterns:
        if not any(fnmatchcase(tag, pattern) for tag in known):
            raise InputError(
                f"--tags {pattern}: no such scalar; {did_you_mean(pattern, [t for t in known if not is_hidden(t)])}"
            )
    return [tag for tag in known if any(fnmatchcase(tag, pattern) for pattern in patterns)]


def _reading_order(tag: str) -> tuple[int, int, str]:
    """Quality first, validation before training, then how the run went."""
    groups = ("val_", "test_", "extra_val_", "train_", "lr", "speed_", "memory_")
    group = next((i for i, prefix in enumerate(groups) if tag.lstrip("_").startswith(prefix)), len(groups))
    return group, "_gen_" in tag or "_adv_" in tag or "_discr_" in tag, tag


# ---- files ----------------------------------------------------------------------------------------------------------


def read_runs(path: str | Path) -> list[RunLog]:
    """The runs at `path`: an experiment folder, a run's TensorBoard folder, one `version_N` of it, or several runs'.

    Raises:
        InputError: nothing there, no event files, no scalars in them.
    """
    top = logs_of(Path(path))
    runs: dict[Path, list[Path]] = {}
    for file in [top] if top.is_file() else _event_files(top):
        runs.setdefault(_run_folder(file, top), []).append(file)
    read, empty = [], []
    for run, files in runs.items():
        name = _run_name(run, top, Path(path))
        try:
            read.append(read_run(files, name))
        except InputError as error:  # a run that was stopped before it logged anything
            empty.append(error)
            if len(runs) > 1:
                LOGGER.warning("%s; left out", error)
    if empty and not read:
        raise empty[0]
    return read


def read_all(paths: Iterable[Path]) -> list[RunLog]:
    """The runs at all `paths` (see `read_runs`), those of one name told apart by their paths."""
    found = [(path, run) for path in paths for run in read_runs(path)]
    uses = Counter(run.name for _, run in found)
    return [
        run if uses[run.name] == 1 else replace(run, name=str(path if path.name == run.name else path / run.name))
        for path, run in found
    ]


def logs_of(path: Path) -> Path:
    """Where the event files of `path` are: there, or where the `config.yaml` of the experiment folder says."""
    if not path.exists():
        raise InputError(f"{path} does not exist; expected an experiment folder or a folder of TensorBoard")
    if path.is_file() or _event_files(path):
        return path
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path}: neither config.yaml nor {EVENT_FILES} in it; name a run's folder in TensorBoard's")
    tb_dir = (read_experiment_config(path).get("location") or {}).get("tb_dir")
    folder = Path(str(tb_dir)) / path.resolve().name
    if not tb_dir or not _event_files(folder):
        raise InputError(f"{path}: no logs in {folder}, where its config.yaml has them; name their folder instead")
    return folder


def _event_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob(EVENT_FILES) if file.is_file())


def _run_folder(file: Path, top: Path) -> Path:
    """The folder that stands for a run: Lightning makes a `version_N` in it at every start."""
    if file == top:
        return top
    named_by_lightning = file.parent != top and re.fullmatch(r"version_\d+", file.parent.name)
    return file.parent.parent if named_by_lightning else file.parent


def _run_name(run: Path, top: Path, asked: Path) -> str:
    """The name of the run's folder, with the one above where that says no more than a number."""
    if run != top:
        return str(run.relative_to(top))
    folder = asked.resolve().parent if asked.is_file() else asked.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name


def read_run(files: Iterable[Path], name: str) -> RunLog:
    """The scalars of one run's event files, in the order in which they were begun.

    A resumed run begins again at its checkpoint: its file replaces everything from its first step on, which the
    earlier start had computed past that checkpoint and lost.
    """
    parts = sorted((part for part in map(_read_file, files) if part.scalars), key=lambda part: part.begun)
    if not parts:
        raise InputError(f"{name}: its event files hold no scalars; has the run logged anything yet?")
    merged: dict[str, dict[int, float]] = {}
    restarts = []
    for part in parts:
        first = min(step for values in part.scalars.values() for step in values)
        kept = {tag: {step: v for step, v in values.items() if step < first} for tag, values in merged.items()}
        if merged and not any(kept.values()):
            restarts.append(part.path)
        merged = {tag: {**kept.get(tag, {}), **part.scalars.get(tag, {})} for tag in {**kept, **part.scalars}}
    scalars = {
        tag: Series(steps=sorted(values), values=[values[step] for step in sorted(values)])
        for tag, values in merged.items()
        if values
    }
    return RunLog(name=name, scalars=scalars, restarts=restarts)


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    begun: float  # seconds since 1970
    scalars: dict[str, dict[int, float]]


def _read_file(path: Path) -> _File:
    # Imported here: it takes a second, which other commands need not wait.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events = EventAccumulator(str(path), size_guidance=kept, purge_orphaned_data=False)
    events.Reload()  # the record that a kill cut off is left out
    scalars = {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
        if tag not in _NO_METRICS
    }
    return _File(path=path, begun=events.FirstEventTimestamp() if scalars else 0.0, scalars=scalars)
