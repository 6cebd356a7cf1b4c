"""One table over all models of an evaluation folder, as Markdown and as LaTeX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saicinpainting.evaluation.comparison import markdown
from saicinpainting.evaluation.report import NAMES, set_identity
from saicinpainting.io.files import write_whole
from saicinpainting.metrics import HIGHER_IS_BETTER
from saicinpainting.metrics.base import TOTAL
from saicinpainting.utils import InputError, did_you_mean

DECIMALS = {"fid": 2, "psnr": 2, "psnr_hole": 2, "kid": 5, "l1": 4, "l1_hole": 4}
"""Others have three."""
NOTE = "Images of a set in parentheses; the best value in bold. ↑ more is better, ↓ less is.\n"


def check_table_metrics(metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in HIGHER_IS_BETTER:
            raise InputError(f"table: unknown score {name!r}; {did_you_mean(str(name), HIGHER_IS_BETTER)}")


def write_models_table(outdir: Path, metrics: Sequence[str]) -> None:
    """Write `table.md` and `table.tex` of every `NAME/results.json` in `outdir`.

    A row a model; a column each of `metrics` and set. Sets are told apart by their contents, not by their names: values
    in one column are of the same images and masks. Files of that name that are not ours are left out. Nothing is
    written where no model has any of `metrics`.
    """
    found = {file.parent.name: _sets_in(file) for file in sorted(outdir.glob("*/results.json"))}
    models = {name: sets for name, sets in found.items() if sets is not None}
    columns = list(_columns(models, metrics))
    if not columns:
        return
    headings = [(column[0], f"{NAMES[column[1]]} {'↑' if HIGHER_IS_BETTER[column[1]] else '↓'}") for column in columns]
    rows = [
        {"model": name, **{" ".join(heading): cells[i] for i, heading in enumerate(headings)}}
        for name, cells in _cells(columns, "**{}**").items()
    ]
    write_whole(outdir / "table.md", markdown(rows) + "\n" + NOTE)
    write_whole(outdir / "table.tex", _latex(headings, _cells(columns, r"\textbf{{{}}}")))


def _sets_in(file: Path) -> dict[str, Any] | None:
    """The sets of an evaluation by identity, each with its `name`; None: another program wrote the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {set_identity(name, one): {**one, "name": name} for name, one in content["sets"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


Column = tuple[str, str, dict[str, float | None]]
"""Heading of the set, metric, value of each model: None where it has none."""


def _columns(models: dict[str, dict[str, Any]], metrics: Sequence[str]) -> Iterator[Column]:
    sets: dict[str, dict[str, Any]] = {}
    for identity, one in (item for own in models.values() for item in own.items()):
        sets.setdefault(identity, one)
    for identity, one in sets.items():
        twice = sum(other["name"] == one["name"] for other in sets.values()) > 1
        heading = f"{one['name']} ({one['images']:,}{', ' + identity[:6] if twice else ''})"
        for metric in metrics:
            values = {model: _value(own.get(identity, {}), metric) for model, own in models.items()}
            if any(value is not None for value in values.values()):
                yield heading, metric, values


def _value(one: dict[str, Any], metric: str) -> float | None:
    value: float | None = one.get("results", {}).get(metric, {}).get(TOTAL, {}).get("mean")
    return value


def _cells(columns: Sequence[Column], best_as: str) -> dict[str, list[str]]:
    """A row of texts for each model; best_as: how the best value of a column is written."""
    cells: dict[str, list[str]] = {model: [] for column in columns for model in column[2]}
    for _, metric, values in columns:
        texts = {
            model: "" if value is None else f"{value:.{DECIMALS.get(metric, 3)}f}" for model, value in values.items()
        }
        best = (max if HIGHER_IS_BETTER[metric] else min)(float(text) for text in texts.values() if text)
        for model, text in texts.items():
            cells[model].append(best_as.format(text) if text and float(text) == best and len(texts) > 1 else text)
    return cells


def _latex(headings: Sequence[tuple[str, str]], cells: dict[str, list[str]]) -> str:
    import pandas

    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    names = [(_escaped(of), metric.replace(metric[-1], arrows[metric[-1]])) for of, metric in headings]
    frame = pandas.DataFrame(
        list(cells.values()), index=[_escaped(name) for name in cells], columns=pandas.MultiIndex.from_tuples(names)
    )
    table = frame.style.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * len(names))
    return "% needs \\usepackage{booktabs}\n" + table


def _escaped(name: str) -> str:
    return "".join("\\" + letter if letter in "_&%$#{}" else letter for letter in name)
