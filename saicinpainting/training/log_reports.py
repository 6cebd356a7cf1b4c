"""What TensorBoard's files say of runs: their scalars over all starts, a table, and a plot with a panel for each."""

from __future__ import annotations

import io
import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saicinpainting.config import read_experiment_config
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
EVENT_FILES = "events.out.tfevents*"

# What loggers write besides, at steps of their own.
_NO_METRICS = ("hp_metric", "epoch")
# Names in which one direction is better, the first that fits. One batch of training says nothing about the best step.
_DIRECTIONS = (
    (re.compile(r"^train_|_std$"), None),
    (re.compile(r"_(ssim|lpips_fid100_f1|psnr|p_ids|u_ids)(_|$)"), "max"),
    (re.compile(r"_(lpips|fid|kid|l1)(_|$)|_gen_(fm|pl|resnet_pl)$"), "min"),
)
_STAND_INS = (("val_ssim_total_mean", "max"), ("val_gen_l1", "min"))
# Okabe and Ito's colours, which the colour-blind tell apart too; yellow, too pale for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS_IN_A_ROW = 4
# Fewer values are too few to smooth, and are shown as dots.
MANY = 50


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The scalars of one run.

    Args:
        name: of the run's folder.
        scalars: the values of each tag by step, steps rising.
        restarts: files that begin before everything in the files before them, which was left out therefore.
    """

    name: str
    scalars: Mapping[str, pd.Series]
    restarts: list[Path] = field(default_factory=list)

    def series(self, tag: str) -> pd.Series:
        if tag not in self.scalars:
            raise InputError(f"{self.name}: {tag} was not logged; {did_you_mean(tag, _shown(self.scalars))}")
        return self.scalars[tag]


def better(tag: str) -> str | None:
    """`max` or `min`, whichever is better for the values of `tag`; None where neither is."""
    return next((direction for pattern, direction in _DIRECTIONS if pattern.search(tag)), None)


def judged_by(monitor: str | None, mode: str | None, logged: Collection[str]) -> tuple[str | None, str | None]:
    """What a run with these scalars is judged by, and which is better: its config's `monitor`, or what stood in for it.

    `make_checkpoint_callback` chooses that where the monitor is not measured.
    """
    own = monitor, (better(monitor) if monitor else None) or mode
    return next((one for one in (own, *_STAND_INS) if one[0] in logged), own)


def best_step(series: pd.Series, direction: str | None) -> int | None:
    """Step of the best value, the earliest of equal ones; None without a direction or a finite value."""
    finite = series[np.isfinite(series)]
    if direction is None or finite.empty:
        return None
    return int(finite.idxmax() if direction == "max" else finite.idxmin())


def select_tags(known: Iterable[str], patterns: Iterable[str] = ()) -> list[str]:
    """The tags that fit one of `patterns` (`val_*`), in reading order.

    Without patterns all but deviations and bins of hole share.
    """
    known = sorted(known, key=_reading_order)
    patterns = list(patterns)
    if not patterns:
        return _shown(known)
    for pattern in patterns:
        if not any(fnmatchcase(tag, pattern) for tag in known):
            raise InputError(f"--tags {pattern}: no such scalar; {did_you_mean(pattern, _shown(known))}")
    return [tag for tag in known if any(fnmatchcase(tag, pattern) for pattern in patterns)]


def _tags(runs: Iterable[RunLog]) -> set[str]:
    return {tag for run in runs for tag in run.scalars}


def _shown(tags: Iterable[str]) -> list[str]:
    """Bins of hole share start with an underscore (with `extra_val_`, they do not)."""
    return [tag for tag in tags if not (tag.startswith("_") or tag.endswith("_std") or "%" in tag)]


def _reading_order(tag: str) -> tuple[int, int, str]:
    """Quality first, validation before training, then how the run went."""
    groups = ("val_", "test_", "extra_val_", "train_", "lr", "speed_", "memory_")
    group = next((i for i, prefix in enumerate(groups) if tag.lstrip("_").startswith(prefix)), len(groups))
    return group, "_gen_" in tag or "_adv_" in tag or "_discr_" in tag, tag


# ---- files ----------------------------------------------------------------------------------------------------------


def read_runs(path: str | Path) -> list[RunLog]:
    """The runs at `path`: a run, a run's TensorBoard folder, one `version_N` of it, or several runs'.

    Raises:
        InputError: nothing there, no event files, no scalars in them.
    """
    top = logs_of(Path(path))
    runs: dict[Path, list[Path]] = {}
    for file in [top] if top.is_file() else event_files(top):
        runs.setdefault(_run_folder(file, top), []).append(file)
    read = []
    for run, files in runs.items():
        try:
            read.append(read_run(files, _run_name(run, top, Path(path))))
        except InputError as error:  # a run that was stopped before it logged anything
            if len(runs) == 1:
                raise
            LOGGER.warning("%s; left out", error)
    if not read:
        raise InputError(f"{path}: none of its runs has logged anything yet")
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
    """Where the event files of `path` are: there, or where the `config.yaml` of the run's folder says."""
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a run's folder or a folder of TensorBoard")
    if path.is_file() or event_files(path):
        return path
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path}: neither config.yaml nor {EVENT_FILES} in it; name a run's folder in TensorBoard's")
    tb_dir = Path(str((read_experiment_config(path).get("location") or {}).get("tb_dir") or ""))
    # The official code's logs of a sweep are in the second, as those of any run.
    places = [tb_dir / run_name(path.resolve()), tb_dir / path.resolve().name]
    for place in places:
        if event_files(place):
            return place
    raise InputError(f"{path}: no logs in {places[0]}, where its config.yaml has them; name their folder instead")


def run_name(run: Path) -> str:
    """The name of a run's folder, and of its logs: `RUN`, or `SWEEP/0`, as Hydra numbers a sweep's runs."""
    return f"{run.parent.name}/{run.name}" if run.name.isdigit() else run.name


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
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else run_name(folder)


def event_files(folder: Path) -> list[Path]:
    """TensorBoard's files under `folder`, in order; what is no file, such as a pipe of that name, is left out."""
    return sorted(path for path in folder.rglob(EVENT_FILES) if path.is_file())


def read_run(files: Iterable[Path], name: str) -> RunLog:
    """The scalars of one run's event files, in the order in which they were begun.

    A resumed run begins again at its checkpoint: its file replaces everything from its first step on, which the
    earlier start had computed past that checkpoint and lost.
    """
    scalars: dict[str, pd.Series] = {}
    restarts = []
    starts = [(*_read_file(file), file) for file in files]
    for _, new, file in sorted((start for start in starts if start[1]), key=lambda start: start[0]):
        first = min(series.index[0] for series in new.values())
        kept = {tag: before for tag, series in scalars.items() if len(before := series[series.index < first])}
        if scalars and not kept:
            restarts.append(file)
        scalars = {tag: pd.concat([s[tag] for s in (kept, new) if tag in s]) for tag in {**kept, **new}}
    if not scalars:
        raise InputError(f"{name}: its event files hold no scalars; has the run logged anything yet?")
    return RunLog(name=name, scalars=scalars, restarts=restarts)


def _read_file(path: Path) -> tuple[float, dict[str, pd.Series]]:
    """When the file was begun, in seconds since 1970, and its scalars."""
    # Takes a second, which a run need not wait.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events = EventAccumulator(str(path), size_guidance=kept, purge_orphaned_data=False)
    events.Reload()  # the record that a kill cut off is left out
    scalars = {
        tag: pd.Series({event.step: event.value for event in events.Scalars(tag)}).sort_index()
        for tag in events.Tags()["scalars"]
        if tag not in _NO_METRICS
    }
    return events.FirstEventTimestamp() if scalars else 0.0, scalars


# ---- table ----------------------------------------------------------------------------------------------------------


def report_table(runs: Sequence[RunLog], patterns: Sequence[str] = (), *, last: int = 5) -> pd.DataFrame:
    """A row a metric and run: its latest value, its best one where a direction is better, the mean of the `last` ones.

    Rows of one metric follow each other. Cells that make no sense for a metric are empty (NaN).
    """
    rows = []
    for tag, run in itertools.product(select_tags(_tags(runs), patterns), runs):
        if tag in run.scalars:
            series = run.scalars[tag]
            best = best_step(series, better(tag))
            row = {"metric": tag, "run": run.name, "last": series.iloc[-1], "step": series.index[-1]}
            row |= {"best": math.nan if best is None else series[best], "best step": best}
            rows.append({**row, f"mean of last {last}": np.mean(series.values[-last:]), "values": len(series)})
    if not rows:
        raise InputError("nothing was logged but deviations and bins of hole share; name what to show with --tags")
    return pd.DataFrame(rows)


def printed(table: pd.DataFrame) -> str:
    """`table` for a screen: a metric's name once, a single run's not at all."""
    shown = table.astype({"best step": "Int64"}).astype(object).fillna("-")
    names = table["metric"].mask(table["metric"].duplicated(), "")
    shown["metric"] = names.str.ljust(names.str.len().max())
    if table["run"].nunique() == 1:
        shown = shown.drop(columns="run")
    return shown.to_string(index=False, float_format="{:.6g}".format)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """`table` as tab-separated text with six significant digits, empty where a cell makes no sense."""
    write_whole(path, table.astype({"best step": "Int64"}).to_csv(sep="\t", index=False, float_format="%.6g"))


# ---- plot -----------------------------------------------------------------------------------------------------------


def smoothed(series: pd.Series, weight: float) -> pd.Series:
    """TensorBoard's smoothing: an exponential mean with `weight` in [0, 1) on the past, free of its starting value.

    Values that are not finite are passed on and do not enter the mean.
    """
    finite = np.isfinite(series)
    return series.where(finite).ewm(alpha=1 - weight, ignore_na=True).mean().where(finite, series)


def write_plot(runs: Sequence[RunLog], path: Path, patterns: Sequence[str] = (), *, smooth: float = 0.0) -> None:
    """A panel a metric over steps, a colour a run, the best value marked; `path` ends in `.png`, `.pdf` or `.svg`.

    `smooth` (see `smoothed`) is for what is logged often; the values themselves stay visible as a pale line.
    """
    try:
        # Without pyplot: no window system, no state that outlives the call.
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    tags = select_tags(_tags(runs), patterns)
    columns = min(PANELS_IN_A_ROW, len(tags))
    rows = math.ceil(len(tags) / columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.4 * rows + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    colours = dict(zip([run.name for run in runs], itertools.cycle(COLOURS), strict=False))
    for tag, panel in itertools.zip_longest(tags, panels):
        if tag is None:
            panel.set_visible(False)
            continue
        for run in runs:
            if tag in run.scalars:
                _draw_series(panel, run.scalars[tag], better(tag), colours[run.name], smooth)
        _finish_panel(panel, tag)
    lines = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    figure.legend(lines, list(colours), loc="outside upper left", ncols=len(runs), frameon=False, fontsize=9)
    figure.supxlabel("step (batches)", fontsize=8)
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, format=path.suffix.lstrip(".") or None)
    except ValueError as error:
        raise InputError(f"--plot {path}: expected a name in .png, .pdf or .svg ({error})") from error
    write_whole(path, drawn.getvalue())


def _draw_series(panel: Any, series: pd.Series, direction: str | None, colour: str, smooth: float) -> None:
    many, values = len(series) >= MANY, series
    if smooth and many:
        panel.plot(series.index, series, color=colour, linewidth=0.7, alpha=0.25, zorder=1)
        values = smoothed(series, smooth)
    dots = {} if many else {"marker": "o", "markersize": 2.5}
    panel.plot(series.index, values, color=colour, linewidth=1.3, zorder=2, **dots)
    best = best_step(series, direction)
    if best is not None:
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": colour}
        panel.plot(best, series[best], clip_on=False, zorder=3, **ring)


def _finish_panel(panel: Any, tag: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    panel.set_title(tag + {"max": "  ↑", "min": "  ↓", None: ""}[better(tag)], fontsize=8.5, loc="left")
    panel.tick_params(labelsize=7, length=2, color="0.6")
    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("0.6")
    panel.margins(x=0.02)
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 25k
