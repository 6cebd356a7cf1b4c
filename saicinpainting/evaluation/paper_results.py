"""Values of the paper (Suvorov et al., WACV 2022, table 1), for the tables of a report."""

from __future__ import annotations

import re
from collections.abc import Iterable

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


def published_name(set_name: str) -> str | None:
    """The paper's name of a set called `thin`, `random_thick_512`, …; None: the paper has none of that name."""
    found = re.fullmatch(r"(?:random_)?([a-z]+)(?:_(?:256|512))?", set_name)
    return SETS.get(found[1]) if found else None


def dataset_of(sizes: Iterable[tuple[int, int]]) -> str | None:
    """The data set whose images are of these sizes, all of them; None: none, or several."""
    sides = {side for size in sizes for side in size}
    return SIDES.get(sides.pop()) if len(sides) == 1 else None
