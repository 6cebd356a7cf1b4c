"""The report of an evaluation: one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
import numpy as np
import yaml

from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation.comparison import white_hole
from saicinpainting.evaluation.paper_results import DATASETS, PUBLISHED, published_name
from saicinpainting.io.files import write_whole
from saicinpainting.io.images import to_pixels
from saicinpainting.metrics import HIGHER_IS_BETTER, SEGMENTATION
from saicinpainting.metrics.base import TOTAL
from saicinpainting.metrics.evaluator import Results, number_text
from saicinpainting.metrics.inception import FEATURES

if TYPE_CHECKING:
    import pandas

TEMPLATES = Path(__file__).parent / "templates"
NAMES = {
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "fid": "FID",
    "kid": "KID",
    "p_ids": "P-IDS",
    "u_ids": "U-IDS",
    "psnr": "PSNR, dB",
    "psnr_hole": "PSNR in the hole, dB",
    "l1": "L1",
    "l1_hole": "L1 in the hole",
    "ssim_fid100_f1": "F1 of SSIM and FID",
    "lpips_fid100_f1": "F1 of LPIPS and FID",
    SEGMENTATION: "classes kept in the hole",
}
RANKING = ("lpips", "l1_hole", "ssim", "l1", "psnr")
"""What examples are ordered by: the first of these that was measured."""
IMAGE_SIDE = 320


@dataclass(frozen=True)
class EvaluationSet:
    """Images with masks in `folder`; recipe: what draws it there, None if it is there; origin: where it is from.

    scale: times the size of the recipe.
    """

    name: str
    folder: Path
    recipe: Path | None = None
    origin: str = ""
    scale: int = 1

    @property
    def folder_name(self) -> str:
        """`random_thin_512`: tells it from other sets called `thin`, and names the folder of its predictions."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class SetResult:
    """images: the table of a `Measurement`; dataset: what was measured; digest: of the images and masks that were."""

    set: EvaluationSet
    results: Results
    images: pandas.DataFrame
    dataset: PrecomputedInpaintingResultsDataset
    digest: str


def write_report(
    results: Sequence[SetResult],
    path: Path,
    history: Mapping[str, Any],
    *,
    paper: str | None,
    notes: Sequence[str] = (),
    examples: int,
) -> None:
    """Write the page.

    history: what `results.json` says it was made by; paper: the data set whose published values stand beside;
    notes: what is said under them; examples: images of each kind.
    """
    ranked_by = ranking_column(results[0].images)
    few = [one.set.name for one in results if len(one.images) < FEATURES and ("fid", TOTAL) in one.results]
    examples_of = {one.set.name: list(_examples(one, ranked_by, examples)) for one in results} if ranked_by else {}
    render(
        "report.html",
        path,
        history=history,
        results=_results_table(results),
        few_for_fid=few,
        features=FEATURES,
        paper=_paper_table(results, history["name"], paper),
        paper_notes=notes,
        plots=_bin_plots(results),
        by_resolution=_resolution_plots(results),
        ranked_by=ranked_by and NAMES.get(ranked_by, ranked_by),
        examples=examples_of,
        settings=yaml.safe_dump(history["settings"], sort_keys=False),
    )


def set_identity(name: str, one: Mapping[str, Any]) -> str:
    """What sets of the same images and masks share, whatever their names; one: of `sets` of a `results.json`."""
    return str(one.get("digest") or name)


def totals(one: SetResult) -> dict[str, float]:
    """The overall values of a set by metric."""
    return {metric: values["mean"] for (metric, group), values in one.results.items() if group == TOTAL}


def render(template: str, path: Path, **content: Any) -> None:
    """Write the page that `template` makes of `content`; it appears when it is whole."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pages.filters["number"] = _number
    write_whole(path, pages.get_template(template).render(**content))


def ranking_column(images: pandas.DataFrame) -> str | None:
    """The column of `images.csv` that tells good from bad; None: no metric has a value for each image."""
    return next((name for name in RANKING if name in images.columns), None)


def worst_first(images: pandas.DataFrame, column: str) -> pandas.DataFrame:
    """Rows with a value in `column`, the worst first."""
    rows = images.dropna(subset=[column])
    return rows.sort_values(column, ascending=HIGHER_IS_BETTER[column], kind="stable")


def summary_table(path: Path) -> str:
    """The overall values of a `results.json`, for a terminal."""
    import pandas

    sets = json.loads(path.read_text(encoding="utf-8"))["sets"]
    columns = {
        name: {metric: groups[TOTAL]["mean"] for metric, groups in content["results"].items() if TOTAL in groups}
        for name, content in sets.items()
    }
    return pandas.DataFrame(columns, dtype=float).to_string(float_format=number_text, na_rep="")


# ---- tables --------------------------------------------------------------------------------------------------------


def _metrics(results: Sequence[SetResult]) -> list[str]:
    return list(dict.fromkeys(metric for one in results for metric, group in one.results if group == TOTAL))


def _results_table(results: Sequence[SetResult]) -> dict[str, Any]:
    rows = []
    for metric in _metrics(results):
        better = {True: "↑", False: "↓"}.get(HIGHER_IS_BETTER.get(metric, metric == SEGMENTATION), "")
        cells = [one.results.get((metric, TOTAL), {}) for one in results]
        rows.append({"name": NAMES.get(metric, metric), "better": better, "cells": cells})
    return {"columns": [f"{one.set.name} ({len(one.images):,})" for one in results], "rows": rows}


def _number(value: float) -> str:
    return number_text(value) if abs(value) < 10 else f"{value:.2f}"


def _paper_table(results: Sequence[SetResult], name: str, paper: str | None) -> dict[str, Any] | None:
    """Rows of the paper and of this model, for the sets that the paper has."""
    columns = [(one, theirs, metric) for one in results if (theirs := published_name(one.set.name))
               for metric in ("fid", "lpips") if (metric, TOTAL) in one.results]  # fmt: skip
    if paper is None or not columns:
        return None
    rows: list[tuple[str, list[float | None]]] = [
        (name, [one.results[metric, TOTAL]["mean"] for one, _, metric in columns])
    ]
    for model, values in PUBLISHED[paper].items():
        cells = [values.get(theirs, {}).get(metric) for _, theirs, metric in columns]
        if any(cells):
            rows.append((model, cells))
    headings = [f"{one.set.name} ({theirs}) {NAMES[metric]}" for one, theirs, metric in columns]
    formats = ["%.2f" if metric == "fid" else "%.3f" for _, _, metric in columns]
    return {"columns": headings, "formats": formats, "rows": rows, "dataset": DATASETS[paper]}


# ---- plots ---------------------------------------------------------------------------------------------------------


def _binned(results: Sequence[SetResult]) -> list[str]:
    """Metrics that have values for two bins or more of a set."""
    return [m for m in _metrics(results) if any(len(_bins(one, m)) > 1 for one in results) and m != SEGMENTATION]


def _bins(one: SetResult, metric: str) -> dict[str, Mapping[str, float]]:
    return {group: value for (name, group), value in one.results.items() if name == metric and group.endswith("%")}


def _by_resolution(results: Sequence[SetResult]) -> dict[str, dict[int, SetResult]]:
    """Sets of one kind at several sizes, such as `random_thick_512` and `random_thick_2048`: by kind, then by size."""
    kinds: dict[str, dict[int, SetResult]] = {}
    for one in results:
        if named := re.fullmatch(r"(?:random_)?(.+)_(\d+)", one.set.folder_name):
            kinds.setdefault(named[1], {})[int(named[2])] = one
    return {kind: dict(sorted(sizes.items())) for kind, sizes in kinds.items() if len(sizes) > 1}


def _resolution_plots(results: Sequence[SetResult]) -> dict[str, str]:
    kinds = _by_resolution(results)
    labels = [f"{size} px" for size in sorted({size for sizes in kinds.values() for size in sizes})]
    plots = {}
    for metric in _metrics([one for sizes in kinds.values() for one in sizes.values()]):
        lines = {
            kind: {
                f"{size} px": one.results[metric, TOTAL]
                for size, one in sizes.items()
                if (metric, TOTAL) in one.results
            }
            for kind, sizes in kinds.items()
        }
        plots[NAMES.get(metric, metric)] = _plot(metric, labels, lines)
    return plots


def _bin_plots(results: Sequence[SetResult]) -> dict[str, str]:
    plots = {}
    for metric in _binned(results):
        lines = {one.set.name: _bins(one, metric) for one in results}
        labels = sorted({label for line in lines.values() for label in line}, key=lambda x: float(x.split("-")[0]))
        plots[NAMES.get(metric, metric)] = _plot(metric, labels, lines)
    return plots


def _plot(metric: str, labels: Sequence[str], lines: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """lines: by name, the statistics at each of `labels`, the ticks, where there are any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for name, values in lines.items():
        places = [i for i, label in enumerate(labels) if label in values]
        means = np.array([values[labels[i]]["mean"] for i in places])
        (line,) = axes.plot(places, means, marker="o", markersize=4, label=name)
        stds = np.array([values[labels[i]].get("std", np.nan) for i in places])
        if np.isfinite(stds).all():
            axes.fill_between(places, means - stds, means + stds, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(NAMES.get(metric, metric), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---- images ------------------------------------------------------------------------------------------------------


def _examples(one: SetResult, column: str, count: int) -> Iterator[dict[str, Any]]:
    ordered = worst_first(one.images, column)
    for rank, places in ranked_places(len(ordered), count).items():
        for index, row in ordered.iloc[places].iterrows():
            images = image_row([one.dataset[index]])
            yield {"rank": rank, "name": row["image"], "scores": scores_of(row), "images": images}


def scores_of(row: pandas.Series, more: Sequence[str] = ()) -> str:
    """The values of an image, a row of `images.csv`, in words; more: columns besides the metrics."""
    values = [f"{NAMES.get(name, name)} {row[name]:.4f}" for name in row.index if name in NAMES or name in more]
    return ", ".join([f"hole {row['hole']}", *values])


def image_row(samples: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Input, the result of each of the samples, which are of one image, and the original, as `data_address`es."""
    image, mask = samples[0]["image"], samples[0]["mask"]
    images = [white_hole(image, mask), *(sample["inpainted"] for sample in samples), image]
    return [data_address(image) for image in images]


def ranked_places(total: int, count: int) -> dict[str, list[int]]:
    """Places of the best, median and worst `count` in an order that has the worst first; none of them twice."""
    worst = range(min(count, total))
    best = range(total - 1, max(total - 1 - count, len(worst) - 1), -1)
    middle = max(0, total // 2 - count // 2)
    median = [place for place in range(middle, min(middle + count, total)) if place not in {*worst, *best}]
    return {"best": list(best), "median": median, "worst": list(worst)}


def data_address(image: np.ndarray, side: int = IMAGE_SIDE) -> str:
    """A JPEG within the page; image: (1 or 3, H, W) in [0, 1], shrunk to `side` at most."""
    pixels: Any = to_pixels(image).repeat(3 // len(image), axis=2)
    scale = side / max(pixels.shape[:2])
    if scale < 1:
        height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
