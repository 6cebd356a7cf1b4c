"""Statistics of the holes of an evaluation set: a table by tenths of hole share, a plot, sample pictures.

Example: bin/calc_dataset_stats.py DATA/val stats/ --samples-n 3 --n-jobs 8
Writes holes.tsv (the table), masks.tsv (every mask), holes.png, and samples/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.io.files import write_whole


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.data.mask_statistics import measure, plot, table, write_samples
    from saicinpainting.data.pairs import InpaintingDataset

    dataset = InpaintingDataset(args.datadir, img_suffix=args.img_suffix)
    holes = measure(dataset, n_jobs=args.n_jobs)
    text = table(holes)
    write_whole(args.outdir / "holes.tsv", text)
    write_whole(args.outdir / "masks.tsv", holes.to_csv(sep="\t", index=False, float_format="%.6f"))
    plot(holes, args.outdir / "holes.png", title=args.datadir.resolve().name)
    print(text.expandtabs(10), end="")
    if args.samples_n:
        write_samples(dataset, holes, args.outdir / "samples", per_bin=args.samples_n, seed=args.seed)
    print(f"-> {args.outdir}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datadir", type=Path, help="folder of images with masks")
    parser.add_argument("outdir", type=Path, help="folder for the results")
    parser.add_argument("--img-suffix", default=".png", help="ending of the images (default: %(default)s)")
    parser.add_argument("--samples-n", type=int, default=0, help="pictures of each tenth (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures' choice (default: %(default)s)")
    parser.add_argument("--n-jobs", type=int, default=1, help="number of processes (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
