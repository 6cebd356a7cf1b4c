"""Statistics of the holes of a set of images with masks, and a plot of them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.io.files import map_in_processes, whole
from saicinpainting.io.images import to_pixels, write_image

if TYPE_CHECKING:
    import pandas

BINS = 10


def measure(dataset: InpaintingDataset, *, n_jobs: int = 1) -> pandas.DataFrame:
    """A row a mask, in the order of the set; `n_jobs` processes read.

    Columns: `mask`, its file; `share` of the image that is hole; `holes`, how many are connected; `width`, `height` in
    pixels.
    """
    import pandas

    work = partial(_measure_one, dataset=dataset)
    found = map_in_processes(
        work, range(len(dataset)), n_jobs, name_of=dataset.mask_filenames.__getitem__, chunksize=16
    )
    rows = list(tqdm(found, total=len(dataset), unit="mask"))
    return pandas.DataFrame(rows, columns=["mask", "share", "holes", "width", "height"])


def _measure_one(index: int, *, dataset: InpaintingDataset) -> tuple[str, float, int, int, int]:
    mask = dataset[index]["mask"][0]
    labels, _ = cv2.connectedComponents(mask.astype(np.uint8))
    name = os.path.relpath(dataset.mask_filenames[index], dataset.datadir)
    return name, float(mask.mean()), labels - 1, mask.shape[1], mask.shape[0]


def _bins(holes: pandas.DataFrame) -> pandas.Series:
    return (holes["share"] * BINS).astype(int).clip(upper=BINS - 1)


def table(holes: pandas.DataFrame) -> str:
    """Tab-separated: masks and their share of the set, overall and by tenths of the image that are hole."""
    import pandas

    bins, rows = _bins(holes), {}
    for label, group in [("total", holes), *((f"{10 * i}-{10 * i + 10}%", holes[bins == i]) for i in range(BINS))]:
        shares = {"share": len(group) / len(holes), "mean": group["share"].mean(), "std": group["share"].std(ddof=0)}
        rows[label] = {"masks": str(len(group)), **shares, **group[["holes", "width", "height"]].mean()}
    return pandas.DataFrame(rows.values(), rows).to_csv(sep="\t", index_label="hole", float_format="%.4f")


def plot(holes: pandas.DataFrame, path: Path, *, title: str) -> None:
    """A histogram of the shares."""
    from matplotlib.figure import Figure

    shares = holes["share"].to_numpy()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(shares, bins=np.linspace(0, 1, 41).tolist(), color="tab:blue")
    axes.axvline(shares.mean(), color="black", linestyle="--", label=f"mean {shares.mean():.3f}")
    axes.set(xlabel="share of the image that is hole", ylabel="masks", xlim=(0, 1))
    axes.set_title(f"{title}: {len(holes)} masks, standard deviation {shares.std():.3f}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        figure.savefig(part, dpi=120, format="png")


def write_samples(
    dataset: InpaintingDataset, holes: pandas.DataFrame, folder: Path, *, per_bin: int, seed: int
) -> None:
    """Images with their holes painted red, `per_bin` of each tenth, as `30-40_NAME.jpg`."""
    rng, bins = np.random.RandomState(seed), _bins(holes)
    for number in range(BINS):
        for i in rng.permutation(np.flatnonzero(bins == number))[:per_bin]:
            sample = dataset[int(i)]
            image = sample["image"] * (1 - sample["mask"])
            image[0] += sample["mask"][0]
            name = f"{10 * number}-{10 * number + 10}_{Path(holes['mask'][i]).stem}.jpg"
            write_image(folder / name, to_pixels(image))
