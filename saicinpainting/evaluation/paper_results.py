"""Values of the paper (Suvorov et al., WACV 2022, table 1), for the tables of a report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

FID, LPIPS = "fid", "lpips"
DATASETS = {
    "places": "Places365-Standard, 512 px, 30,000 test images",
    "celeba": "CelebA-HQ, 256 px, 2,000 validation images",
}
SIDES = {512: "places", 256: "celeba"}
"""Side of a data set's images -> its name."""
SETS = {"thin": "narrow", "thick": "wide", "segm": "segm"}
"""Our names of the mask sets -> the paper's."""
PUBLISHED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "places": {
        "LaMa-Fourier": {
            "narrow": {FID: 0.63, LPIPS: 0.090},
            "wide": {FID: 2.21, LPIPS: 0.135},
            "segm": {FID: 5.35, LPIPS: 0.058},
        },
        "LaMa-Regular": {"narrow": {FID: 0.60, LPIPS: 0.089}, "wide": {FID: 3.51, LPIPS: 0.139}},
        "LaMa-Dilated": {"narrow": {FID: 0.66, LPIPS: 0.089}, "wide": {FID: 2.30, LPIPS: 0.136}},
        "CoModGAN": {
            "narrow": {FID: 0.82, LPIPS: 0.111},
            "wide": {FID: 1.82, LPIPS: 0.147},
            "segm": {FID: 6.40, LPIPS: 0.066},
        },
    },
    "celeba": {
        "LaMa-Fourier": {"narrow": {FID: 7.26, LPIPS: 0.085}, "wide": {FID: 6.96, LPIPS: 0.098}},
        "CoModGAN": {"narrow": {FID: 16.8, LPIPS: 0.079}, "wide": {FID: 24.4, LPIPS: 0.102}},
    },
}
"""data set -> model -> the paper's mask set -> metric -> value."""
IMAGES = {"places": 30_000, "celeba": 2_000}
"""Of which the values are."""
MODELS = {"lama-fourier": "LaMa-Fourier", "lama-regular": "LaMa-Regular", "ablv2_work_md": "LaMa-Dilated"}
"""Our names of configs and models, also with `-celeba` -> the paper's."""
TOLERANCE = {"places": {FID: 0.03, LPIPS: 0.002}}
"""How far a second measurement of one network may be off.

LaMa-Fourier, wide masks: 2.21 and .135 published, 2.23 and .134 as the authors of latent diffusion measured it (Rombach
et al. 2022, table 7), that is .02 and .001, and the rounding of both. It is the one pair known; of CelebA-HQ there is
none.
"""


def published_name(set_name: str) -> str | None:
    """The paper's name of a set called `thin`, `random_thick_512`, …; None: the paper has none of that name."""
    found = re.fullmatch(r"(?:random_)?([a-z]+)(?:_(?:256|512))?", set_name)
    return SETS.get(found[1]) if found else None


def dataset_of(sizes: Iterable[tuple[int, int]]) -> str | None:
    """The data set whose images are of these sizes, all of them; None: none, or several."""
    sides = {side for size in sizes for side in size}
    return SIDES.get(sides.pop()) if len(sides) == 1 else None


def paper_model(name: str) -> str | None:
    """The paper's name of a model, from the name of a published one, of a config, or of a run's folder with it."""
    names = (ours for ours in MODELS if re.search(rf"(^|[_/]){ours}(-celeba)?(_|$)", name))
    return next((MODELS[ours] for ours in names), None)


def beside_paper(name: str, dataset: str, measured: Mapping[str, tuple[int, Mapping[str, float]]]) -> Iterator[str]:
    """A line for each set that the paper has: how near its values are, and whether that says anything.

    Args:
        name: of the model.
        dataset: `places` or `celeba`.
        measured: set -> number of its images, and values by metric.
    """
    tolerance, model = TOLERANCE.get(dataset, {}), paper_model(name)
    for set_name, (images, values) in measured.items():
        theirs = published_name(set_name)
        published = PUBLISHED[dataset].get(model or "", {}).get(theirs or "", {})
        metrics = [metric for metric in (FID, LPIPS) if metric in values]
        if theirs is None or not metrics:
            continue
        if images != IMAGES[dataset]:
            yield (
                f"{set_name}: {images:,} images, the paper's values are of {IMAGES[dataset]:,}: they do not tell "
                "whether the result was reached"
            )
        elif not tolerance:
            yield f"{set_name}: no second measurement of the paper's values is known, nor how far one may be off"
        elif not published:
            yield f"{set_name}: between models, {_tolerances(tolerance)} are within what two measurements of one differ"
        else:
            for metric in metrics:
                off, near = abs(values[metric] - published[metric]), tolerance[metric]
                verdict = "within" if off <= near + 1e-9 else f"{off:.3g} off, beyond"
                yield (
                    f"{set_name}: {metric.upper()} {values[metric]:.3f}, {model} of the paper {published[metric]} "
                    f"± {near}: {verdict} what a second measurement may differ by"
                )


def _tolerances(tolerance: Mapping[str, float]) -> str:
    return " and ".join(f"{value} in {metric.upper()}" for metric, value in tolerance.items())
