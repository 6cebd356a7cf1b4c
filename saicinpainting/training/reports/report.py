"""What the logs of runs come to: a table, and a plot with a small panel for every metric."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saicinpainting.io.files import write_whole
from saicinpainting.training.reports.event_logs import RunLog, Series, better, select_tags
from saicinpainting.utils import InputError

# Okabe and Ito's colours, which the colour-blind tell apart too; yellow, too pale for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS_IN_A_ROW = 4
# Fewer values are too few to smooth, and are shown as dots.
MANY = 50


def report_table(runs: Sequence[RunLog], patterns: Sequence[str] = (), *, last: int = 5) -> pd.DataFrame:
    """A row a metric and run: its latest value, its best one where a direction is better, the mean of the `last` ones.

    Rows of one metric follow each other. Cells that make no sense for a metric are empty (NaN).
    """
    rows = []
    for tag in select_tags({tag for run in runs for tag in run.scalars}, patterns):
        rows += [_row(tag, run, last) for run in runs if tag in run.scalars]
    if not rows:
        raise InputError("nothing was logged but deviations and bins of hole share; name what to show with --tags")
    return pd.DataFrame(rows)


def _row(tag: str, run: RunLog, last: int) -> dict[str, Any]:
    series = run.scalars[tag]
    best = series.best(better(tag))
    return {
        "metric": tag,
        "run": run.name,
        "last": series.values[-1],
        "step": series.steps[-1],
        "best": series.values[best] if best is not None else math.nan,
        "best step": series.steps[best] if best is not None else None,
        f"mean of last {last}": float(np.mean(series.values[-last:])),
        "values": len(series.values),
    }


def printed(table: pd.DataFrame) -> str:
    """`table` for a screen: four significant digits, a metric's name once, a single run's not at all."""
    shown = pd.DataFrame({name: [_cell(value) for value in table[name]] for name in table})
    names = shown["metric"].mask(shown["metric"].duplicated(), "")
    shown["metric"] = names.str.ljust(names.str.len().max())
    if shown["run"].nunique() == 1:
        shown = shown.drop(columns="run")
    return shown.to_string(index=False)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.4g}"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """`table` as tab-separated text with six significant digits, empty where a cell makes no sense."""
    whole = table.astype({"best step": "Int64"})
    write_whole(path, whole.to_csv(sep="\t", index=False, float_format="%.6g"))


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """TensorBoard's smoothing: an exponential mean with `weight` in [0, 1) on the past, free of its starting value.

    Values that are not finite are passed on and do not enter the mean.
    """
    result, total, count = [], 0.0, 0
    for value in values:
        if not math.isfinite(value):
            result.append(value)
            continue
        total, count = weight * total + (1 - weight) * value, count + 1
        result.append(total / (1 - weight**count))
    return result


# ---- plot -----------------------------------------------------------------------------------------------------------


def write_plot(runs: Sequence[RunLog], path: Path, patterns: Sequence[str] = (), *, smooth: float = 0.0) -> None:
    """A panel a metric over steps, a colour a run, the best value marked; `path` ends in `.png`, `.pdf` or `.svg`.

    `smooth` (see `smoothed`) is for what is logged often; the values themselves stay visible as a pale line.
    """
    try:
        # Without pyplot: no window system, no state that outlives the call.
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    tags = select_tags({tag for run in runs for tag in run.scalars}, patterns)
    columns = min(PANELS_IN_A_ROW, len(tags))
    rows = math.ceil(len(tags) / columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.4 * rows + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for tag, panel in itertools.zip_longest(tags, panels):
        if tag is None:
            panel.set_visible(False)
        else:
            _draw_panel(panel, tag, runs, smooth)
    _draw_legend(figure, runs)
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, format=path.suffix.lstrip(".") or None)
    except ValueError as error:
        raise InputError(f"--plot {path}: expected a name in .png, .pdf or .svg ({error})") from error
    write_whole(path, drawn.getvalue())


def _draw_panel(panel: Any, tag: str, runs: Sequence[RunLog], smooth: float) -> None:
    for number, run in enumerate(runs):
        if tag in run.scalars:
            _draw_series(panel, run.scalars[tag], better(tag), COLOURS[number % len(COLOURS)], smooth)
    arrow = {"max": "  ↑", "min": "  ↓", None: ""}[better(tag)]
    panel.set_title(tag + arrow, fontsize=8.5, loc="left")
    panel.tick_params(labelsize=7, length=2, color="0.6")
    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("0.6")
    panel.margins(x=0.02)
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.xaxis.set_major_formatter(short_number)
    low, high = panel.dataLim.intervaly
    if 0 <= high - low <= 1e-6 * abs(high):  # a constant would fill the panel with its rounding errors
        margin = 0.05 * abs(high) or 1
        panel.set_ylim(low - margin, high + margin)


def _draw_series(panel: Any, series: Series, direction: str | None, colour: str, smooth: float) -> None:
    many = len(series.steps) >= MANY
    if smooth and many:
        panel.plot(series.steps, series.values, color=colour, linewidth=0.7, alpha=0.25, zorder=1)
    values = smoothed(series.values, smooth) if smooth and many else series.values
    dots = {} if many else {"marker": "o", "markersize": 2.5}
    panel.plot(series.steps, values, color=colour, linewidth=1.3, zorder=2, **dots)
    best = series.best(direction)
    if best is not None:
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": colour}
        panel.plot(series.steps[best], series.values[best], clip_on=False, zorder=3, **ring)


def short_number(value: float, _: Any = None) -> str:
    """`25000` as `25k`, `1200000` as `1.2M`."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _draw_legend(figure: Any, runs: Sequence[RunLog]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=2) for i in range(len(runs))]
    figure.legend(
        lines, [run.name for run in runs], loc="outside upper left", ncols=len(runs), frameon=False, fontsize=9
    )
    figure.supxlabel("step (batches)", fontsize=8)
