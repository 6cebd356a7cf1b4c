#!/usr/bin/env python3
"""Make the Places365 data set of the paper: download, unpack, evaluation sets, location config.

    bin/prepare_places.py places_standard_dataset --n-jobs 8         # 126 GB of images, up to 105 GB more meanwhile
    bin/prepare_places.py places_challenge_dataset --train challenge # 497 GB of images, up to 476 GB more meanwhile

Start it again after an interruption: downloads and unpacking go on, finished steps are skipped. Archives that were
downloaded by hand go into the data set's folder; unless --keep-archives is given, archives are deleted when they are
unpacked. Then: bin/train.py -cn lama-fourier location=places
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from saicinpainting.cli import run_command
from saicinpainting.preparation.places import EVAL_SETS, PlacesPlan, prepare_places
from saicinpainting.preparation.steps import Steps, read_checksums, write_location


def main() -> None:
    args = parse_arguments()
    plan = PlacesPlan(
        train=None if args.train == "none" else args.train,
        val_images=args.val_images,
        visual_images=args.visual_images,
        eval_images=args.eval_images,
        eval_list=args.eval_list,
        eval_sets=args.eval_sets,
        seed=args.seed,
        keep_archives=args.keep_archives,
        n_jobs=args.n_jobs,
        address=args.url,
        checksums=read_checksums(args.checksums),
    )
    print(plan.describe())
    if args.dry_run:
        return
    prepare_places(args.outdir, plan, Steps(args.outdir))
    name = write_location(args.location_dir / f"{args.location}.yaml", data=args.outdir, results=args.results)
    print(f"finished; train with: bin/train.py -cn lama-fourier location={name}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--train", choices=("standard", "challenge", "none"), default="standard", help="training images"
    )
    parser.add_argument("--val-images", type=int, default=2000, help="images that judge checkpoints (default: 2000)")
    parser.add_argument("--visual-images", type=int, default=100, help="images for pictures (default: 100)")
    parser.add_argument("--eval-images", type=int, default=30000, help="images of the evaluation (default: 30000)")
    parser.add_argument("--eval-list", type=Path, help="a file that names them, instead of a random draw")
    parser.add_argument("--eval-sets", nargs="*", default=EVAL_SETS, help="configs of configs/data_gen (default: six)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives that are unpacked")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes for the evaluation sets (default: 1)")
    parser.add_argument("--url", help="folder of a mirror")
    parser.add_argument("--checksums", type=Path, help="md5sum file of the mirror's archives, if they are others")
    parser.add_argument("--location", default="places", help="name of the location config (default: places)")
    parser.add_argument("--location-dir", type=Path, default=ROOT / "configs/training/location", help="its folder")
    parser.add_argument("--results", type=Path, default=ROOT, help="where runs and logs will go (default: here)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
