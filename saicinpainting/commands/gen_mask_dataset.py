"""Make an evaluation set: images resized and cropped around random holes, with the holes as masks.

An interrupted set is gone on with by the same command.
Example: bin/gen_mask_dataset.py configs/data_gen/random_thick_512.yaml photos/ eval/random_thick_512/ --ext jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.utils import InputError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a file of configs/data_gen")
    parser.add_argument("indir", type=Path, help="folder of images, nested folders too")
    parser.add_argument("outdir", type=Path, help="folder for the evaluation set")
    parser.add_argument(
        "--ext", default="jpg", help="ending of the images, several with commas, or auto (default: %(default)s)"
    )
    parser.add_argument("--n-jobs", type=int, default=1, help="number of processes (default: %(default)s)")
    parser.add_argument("--device", help="for segmentation masks: cpu or cuda (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other masks (default: %(default)s)")
    parser.add_argument(
        "--scale", type=int, default=1, help="4 makes a 2048 px set of a 512 px config, with the same holes, enlarged"
    )
    return parser.parse_args()


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.masks.mask_sets import check_outside, make_mask_set, read_recipe

    check_outside(args.outdir, args.indir)
    config = read_recipe(args.config, device=args.device, scale=args.scale)
    if args.device and config.get("generator_kind") != "segmentation":
        raise InputError("--device: only segmentation masks use a device")
    summary = make_mask_set(config, args.indir, args.outdir, ext=args.ext, n_jobs=args.n_jobs, seed=args.seed)
    for reason in summary.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    print(f"{summary} -> {args.outdir}")
    if not summary.masks:
        raise InputError(f"no image of {args.indir} gave a mask; see the reasons above")


if __name__ == "__main__":
    main()
