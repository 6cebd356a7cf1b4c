"""Statistics of the holes of a set of images with masks, and a plot of them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.io.files import map_in_processes, write_whole
from saicinpainting.io.images import to_pixels, write_image

BINS = 10


@dataclass(frozen=True)
class Hole:
    """The mask `file`: share of the image that is hole, number of connected holes, size in pixels."""

    file: str
    share: float
    holes: int
    width: int
    height: int

    @property
    def bin(self) -> int:
        return min(int(self.share * BINS), BINS - 1)


def measure(dataset: InpaintingDataset, *, n_jobs: int = 1) -> list[Hole]:
    """Every mask of the set, in its order; `n_jobs` processes read."""
    work = partial(_measure_one, dataset=dataset)
    found = map_in_processes(
        work, range(len(dataset)), n_jobs, name_of=dataset.mask_filenames.__getitem__, chunksize=16
    )
    return list(tqdm(found, total=len(dataset), unit="mask"))


def _measure_one(index: int, *, dataset: InpaintingDataset) -> Hole:
    mask = dataset[index]["mask"][0]
    labels, _ = cv2.connectedComponents(mask.astype(np.uint8))
    name = os.path.relpath(dataset.mask_filenames[index], dataset.datadir)
    return Hole(name, float(mask.mean()), labels - 1, mask.shape[1], mask.shape[0])


def table(holes: Sequence[Hole]) -> str:
    """Tab-separated: masks and their share of the set, overall and by tenths of the image that are hole."""
    lines = ["hole\tmasks\tshare\tmean\tstd\tholes\twidth\theight", _row("total", holes, len(holes))]
    for number in range(BINS):
        inside = [hole for hole in holes if hole.bin == number]
        lines.append(_row(f"{100 * number // BINS}-{100 * (number + 1) // BINS}%", inside, len(holes)))
    return "\n".join(lines) + "\n"


def _row(name: str, holes: Sequence[Hole], total: int) -> str:
    if not holes:
        return f"{name}\t0\t0.0000\t\t\t\t\t"
    shares = [hole.share for hole in holes]
    means = [np.mean([getattr(hole, field) for hole in holes]) for field in ("holes", "width", "height")]
    cells = [len(holes) / total, np.mean(shares), np.std(shares), *means]
    return "\t".join([name, str(len(holes)), *(f"{cell:.4f}" for cell in cells)])


def plot(holes: Sequence[Hole], path: Path, *, title: str) -> None:
    """A histogram of the shares."""
    from matplotlib.figure import Figure

    shares = np.array([hole.share for hole in holes])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(shares, bins=np.linspace(0, 1, 41).tolist(), color="tab:blue")
    axes.axvline(shares.mean(), color="black", linestyle="--", label=f"mean {shares.mean():.3f}")
    axes.set(xlabel="share of the image that is hole", ylabel="masks", xlim=(0, 1))
    axes.set_title(f"{title}: {len(holes)} masks, standard deviation {shares.std():.3f}")
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    write_whole(path, drawn.getvalue())


def write_samples(dataset: InpaintingDataset, holes: Sequence[Hole], folder: Path, *, per_bin: int, seed: int) -> int:
    """Images with their holes painted red, `per_bin` of each tenth, as `30-40_NAME.jpg`; returns how many."""
    rng, written = np.random.RandomState(seed), 0
    for number in range(BINS):
        inside = [i for i, hole in enumerate(holes) if hole.bin == number]
        for i in rng.permutation(inside)[:per_bin]:
            sample = dataset[int(i)]
            image = sample["image"] * (1 - sample["mask"])
            image[0] += sample["mask"][0]
            name = os.path.splitext(os.path.basename(holes[i].file))[0]
            file = folder / f"{10 * number}-{10 * (number + 1)}_{name}.jpg"
            write_image(file, to_pixels(image))
            written += 1
    return written
