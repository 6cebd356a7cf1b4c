"""Pages of images: several runs side by side, and the failures of one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation.predictions import image_names, predicted_set
from saicinpainting.evaluation.report import (
    NAMES,
    RANKING,
    image_row,
    ranking_column,
    render,
    scores_of,
    set_identity,
    worst_first,
)
from saicinpainting.io.files import printable
from saicinpainting.metrics import HIGHER_IS_BETTER
from saicinpainting.utils import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas

DIFFERENCE = "worse by"


def write_side_by_side(
    datadir: Path, runs: Mapping[str, Path], out: Path, *, count: int, seed: int, img_suffix: str = ".png"
) -> int:
    """A page with a row an image: input, the result of each of `runs` (name -> folder of predictions), original.

    count: how many images, drawn with `seed`; 0: all of them. Returns the number of rows.
    """
    datasets = {
        name: PrecomputedInpaintingResultsDataset(datadir, folder, inpainted_suffix=".png", img_suffix=img_suffix)
        for name, folder in runs.items()
    }
    names = image_names(next(iter(datasets.values())))
    chosen = range(len(names))
    if 0 < count < len(names):
        chosen = sorted(random.Random(seed).sample(chosen, count))  # type: ignore[assignment]
    rows = []
    for index in chosen:
        images = image_row([dataset[index] for dataset in datasets.values()])
        rows.append({"caption": names[index], "images": images})
    folders = [f"{name}: {folder}" for name, folder in runs.items()]
    notes = [f"{len(rows)} of {len(names)} images of {datadir}", *folders]
    render("gallery.html", out, title=", ".join(runs), notes=notes, table=None,
           columns=["input", *runs, "original"], rows=rows)  # fmt: skip
    return len(rows)


# ---- failures ------------------------------------------------------------------------------------------------------


class Failures(NamedTuple):
    """ranked: rows of `images.csv`, the worst first. by_hole: mean and number of images by share of the hole."""

    column: str
    ranked: pandas.DataFrame
    by_hole: pandas.DataFrame


def find_failures(
    evaluation: Path, *, by: str | None = None, set_name: str | None = None, against: Path | None = None
) -> Failures:
    """The images of an evaluation by how bad they came out.

    evaluation: a model's folder that bin/evaluate.py wrote. by: a column of its `images.csv`. against: another model's
    folder; the images of sets that both have, whatever these are called, then are ordered by how much worse they are
    than there, in the column `worse by`.
    """
    images = _read_images(evaluation)
    sets = set(images["set"])
    if set_name is not None:
        if set_name not in sets:
            raise InputError(f"--set: {evaluation} has no set {set_name!r}; {did_you_mean(set_name, sets)}")
        images = images[images["set"] == set_name]
    column = by or ranking_column(images)
    if column is None:
        measures = ", ".join(RANKING)
        raise InputError(f"{evaluation} has no metric with a value for each image; evaluate with one of {measures}")
    known = [name for name in images.columns if name in HIGHER_IS_BETTER]
    if column not in known:
        raise InputError(f"--by: {evaluation} has no {column!r}; {did_you_mean(column, known)}")
    if against is None:
        ranked = worst_first(images, column)
    else:
        other = _read_images(against)
        if column not in other:
            raise InputError(f"--against: {against} has no {column!r}; measure it there as well")
        # One name may be of two sets: of another seed, of a folder that has changed.
        names = {set_identity(name, one): name for name, one in _read_results(evaluation)["sets"].items()}
        ours = {name: names.get(set_identity(name, one)) for name, one in _read_results(against)["sets"].items()}
        other["set"] = other["set"].map(ours)
        images = images.merge(other[["set", "image", column]], on=["set", "image"], suffixes=("", " there"))
        if images.empty:
            raise InputError(f"--against: {against} and {evaluation} have no set of the same images and masks")
        worse = images[f"{column} there"] - images[column]
        images[DIFFERENCE] = worse if HIGHER_IS_BETTER[column] else -worse
        ranked = images.dropna(subset=[DIFFERENCE]).sort_values(DIFFERENCE, ascending=False, kind="stable")
    groups = images.groupby("hole")[column].agg(mean="mean", std=lambda values: values.std(ddof=0), count="count")
    order = sorted(groups.index, key=lambda label: float(label.partition("-")[0]))
    return Failures(column, ranked, groups.loc[order])


def _read_results(evaluation: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    return content


def _read_images(evaluation: Path) -> pandas.DataFrame:
    import pandas

    file = evaluation / "images.csv"
    if not file.is_file():
        raise InputError(f"no {file}; expected a model's folder that bin/evaluate.py wrote")
    # Folders may be called 2024 or NA; what has no value is an empty field.
    names = dict.fromkeys(("set", "image", "hole"), str)
    return pandas.read_csv(file, sep="\t", dtype=names, keep_default_na=False, na_values=[""])


def write_failures(evaluation: Path, failures: Failures, out: Path, *, top: int, against: Path | None = None) -> None:
    """A page with the worst `top` images: input, result, the other model's result, original."""
    content = _read_results(evaluation)
    models = [evaluation, *([against] if against else [])]
    rows = list(_failure_rows(failures.ranked.head(top), content["sets"], models, content["made_by"]["dataset"]))
    table = failures.by_hole.reset_index()
    for name in ("mean", "std"):
        table[name] = ["" if math.isnan(value) else f"{value:.4f}" for value in table[name]]
    column = NAMES.get(failures.column, failures.column)
    render(
        "gallery.html",
        out,
        title=f"{evaluation.name}: the worst by {column}" + (f" against {against.name}" if against else ""),
        notes=[f"{len(rows)} of {len(failures.ranked)} images; {column} by share of the hole:"],
        table={"columns": ["hole", "mean", "std", "images"], "rows": table.to_numpy().tolist()},
        columns=["input", *(model.name for model in models), "original"],
        rows=rows,
    )


def _failure_rows(
    ranked: pandas.DataFrame, sets: Mapping[str, Any], models: Sequence[Path], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    folders = {name: Path(one["folder"]) for name, one in sets.items()}
    own_folders = {
        model: {set_identity(*item): Path(item[1]["folder"]).name for item in _read_results(model)["sets"].items()}
        for model in models
    }

    @cache
    def dataset_of(name: str, model: Path) -> PrecomputedInpaintingResultsDataset:
        results = model / "predictions" / own_folders[model][set_identity(name, sets[name])]
        return predicted_set(folders[name], results, settings)

    for _, row in ranked.iterrows():
        samples = []
        for model in models:
            dataset = dataset_of(row["set"], model)
            samples.append(dataset[list(map(printable, image_names(dataset))).index(printable(row["image"]))])
        caption = f"{row['set']} · {row['image']} · {scores_of(row, more=[DIFFERENCE])}"
        yield {"caption": caption, "images": image_row(samples)}
