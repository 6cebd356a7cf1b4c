"""Choosing images with a seed, and making evaluation sets of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saicinpainting.data.preparation.steps import Steps
from saicinpainting.io.folders import images_in
from saicinpainting.masks.mask_sets import RECIPES, make_mask_set, read_recipe
from saicinpainting.utils import InputError


def draw(names: Sequence[str], seed: int, *counts: int) -> list[list[str]]:
    """Disjoint random samples of these sizes, each in the order of `names`."""
    if sum(counts) > len(names):
        raise InputError(f"{sum(counts)} images are to be drawn, there are {len(names)}; ask for fewer")
    order, samples, first = np.random.RandomState(seed).permutation(len(names)), [], 0
    for count in counts:
        samples.append([names[i] for i in sorted(order[first : first + count])])
        first += count
    return samples


def named(wanted: Path, folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """The images that a list names, with or without folders and endings, and the first of `folders` that has all."""
    try:
        lines = os.fsdecode(wanted.read_bytes()).split()
    except OSError as error:
        raise InputError(f"--eval-list: cannot read {wanted}: {error}") from error
    stems = list(dict.fromkeys(_stem(line) for line in lines))
    if not stems:
        raise InputError(f"--eval-list: {wanted} names no image")
    missing: list[str] = []
    for folder in folders:
        present = {_stem(name): name for name in images_in(folder)}
        lacking = [stem for stem in stems if stem not in present]
        if not lacking:
            return folder, [present[stem] for stem in stems]
        missing = min(missing or lacking, lacking, key=len)
    where = " or ".join(map(str, folders))
    raise InputError(
        f"--eval-list: {len(missing)} of {len(stems)} images of {wanted} are not in {where}, first {missing[0]}"
    )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def make_set(
    steps: Steps, folder: str, *, recipe: str, source: Path, names: Sequence[str], seed: int, n_jobs: int
) -> None:
    """An evaluation set at `root/folder` from images of `source`; `recipe`: a config of configs/data_gen."""

    def work() -> str:
        config = read_recipe(RECIPES / f"{recipe}.yaml")
        summary = make_mask_set(config, source, steps.root / folder, n_jobs=n_jobs, seed=seed, names=names)
        for reason in summary.skipped:
            steps.say(f"skipped {reason}")
        return str(summary)

    chosen = f"{len(names)} images, {zlib.crc32(os.fsencode(' '.join(names))):08x}"
    steps.take(folder, {"masks": recipe, "seed": seed, "images": chosen}, work)
