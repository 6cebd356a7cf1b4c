"""The demo's image (input, mask, result, original) and table (LaMa against mean-colour fill)."""

import argparse
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="writes OUT.png and OUT.md")
    parser.add_argument("folders", nargs="+", type=Path, help="pairs DATADIR PREDICTDIR")
    args = parser.parse_args()
    import pandas as pd

    from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
    from saicinpainting.evaluation.comparison import compare_with_mean_colour, markdown_table, side_by_side
    from saicinpainting.io.images import write_image

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
