#!/usr/bin/env python3
"""The demo's image (input, mask, result, original) and table (LaMa against mean-colour fill)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from saicinpainting.cli import run_command
from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation.comparison import compare_with_mean_colour, markdown_table, side_by_side
from saicinpainting.io.files import write_whole
from saicinpainting.io.images import write_image
from saicinpainting.utils import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="writes OUT.png and OUT.md")
    parser.add_argument("folders", nargs="+", type=Path, help="pairs DATADIR PREDICTDIR")
    args = parser.parse_args()
    if len(args.folders) % 2:
        parser.error("folders come in pairs: DATADIR PREDICTDIR")
    datasets = [
        PrecomputedInpaintingResultsDataset(data, predicted, img_suffix=".png", inpainted_suffix=".png")
        for data, predicted in zip(args.folders[::2], args.folders[1::2], strict=True)
    ]
    table = pd.concat([compare_with_mean_colour(dataset) for dataset in datasets], ignore_index=True)
    write_image(args.out.with_suffix(".png"), side_by_side(datasets))
    write_whole(args.out.with_suffix(".md"), markdown_table(table))
    print(markdown_table(table))
    print(f"image: {args.out.with_suffix('.png')}, table: {args.out.with_suffix('.md')}")
    lama, fill = table["L1 LaMa"].mean(), table["L1 mean colour"].mean()
    if lama >= fill:
        raise InputError(f"LaMa's fill (L1 {lama:.4f}) is no better than the mean colour ({fill:.4f}); train longer")


if __name__ == "__main__":
    run_command(main)
