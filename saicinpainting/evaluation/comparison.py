"""Predictions beside a baseline: the hole filled with the mean colour of the known pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
from saicinpainting.io.images import to_pixels

GAP = 8


def mean_colour_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill the hole of `image` (3, H, W), mask (1, H, W) with the mean colour of the pixels outside it."""
    known = 1 - mask
    mean = (image * known).sum(axis=(1, 2), keepdims=True) / max(known.sum(), 1)
    return image * known + mean * mask


def white_hole(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the network is asked to fill: image (3, H, W) with the hole of mask (1, H, W) in white."""
    return image * (1 - mask) + mask


def hole_l1(image: np.ndarray, filled: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute difference over the hole's pixels, all (3, H, W) in [0, 1], mask (1, H, W)."""
    return float((np.abs(image - filled) * mask).sum() / max(3 * mask.sum(), 1))


def compare_with_mean_colour(dataset: PrecomputedInpaintingResultsDataset) -> pd.DataFrame:
    """A row an image: size, share of the hole, L1 in the hole of the prediction and of the mean-colour fill."""
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        image, mask = item["image"], item["mask"]
        rows.append(
            {
                "image": Path(dataset.mask_filenames[index]).name,
                "size": f"{image.shape[2]}x{image.shape[1]}",
                "hole": mask.mean(),
                "L1 LaMa": hole_l1(image, item["inpainted"], mask),
                "L1 mean colour": hole_l1(image, mean_colour_fill(image, mask), mask),
            }
        )
    return pd.DataFrame(rows)


def side_by_side(datasets: Iterable[PrecomputedInpaintingResultsDataset]) -> np.ndarray:
    """A row an image (input, mask, result, original) as one uint8 RGB image (H, W, 3).

    Images keep their size, so that a larger photograph is seen as such.
    """
    rows = []
    for dataset in datasets:
        for index in range(len(dataset)):
            item = dataset[index]
            image, mask = item["image"], item["mask"]
            columns = [white_hole(image, mask), np.repeat(mask, 3, axis=0), item["inpainted"], image]
            rows.append(np.concatenate([_padded(column, 0, GAP) for column in columns], axis=2))
    width = max(row.shape[2] for row in rows)
    padded = [_padded(row, GAP, width - row.shape[2]) for row in rows]
    return to_pixels(np.concatenate(padded, axis=1)[:, :-GAP, :-GAP])


def _padded(image: np.ndarray, bottom: int, right: int) -> np.ndarray:
    return np.pad(image, ((0, 0), (0, bottom), (0, right)), constant_values=1)


def markdown_table(table: pd.DataFrame) -> str:
    """`table` as Markdown, numbers with four decimals, and a last row of means."""
    numbers = table.select_dtypes("number").columns
    table = pd.concat([table, table[numbers].mean().to_frame().T.assign(image="**mean**")])
    table[numbers] = table[numbers].map("{:.4f}".format)
    rows = [table.columns, ["---"] * len(table.columns), *table.fillna("").to_numpy()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
