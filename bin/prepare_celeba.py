#!/usr/bin/env python3
"""Make the CelebA-HQ data set of the paper at 256 px: split, evaluation sets, location config.

    bin/prepare_celeba.py celeba-hq-dataset data256x256.zip      # or a folder of the 30,000 images, or an address

Start it again after an interruption: finished steps are skipped. About 3 GB for the images, as much again for an
archive. Then: bin/train.py -cn lama-fourier-celeba location=celeba_hq
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from saicinpainting.cli import run_command
from saicinpainting.preparation.celeba import EVAL_SETS, CelebaPlan, prepare_celeba
from saicinpainting.preparation.steps import Steps, write_location


def main() -> None:
    args = parse_arguments()
    plan = CelebaPlan(
        source=args.source,
        val_images=args.val_images,
        eval_sets=args.eval_sets,
        seed=args.seed,
        keep_archives=args.keep_archives,
        n_jobs=args.n_jobs,
    )
    print(plan.describe())
    if args.dry_run:
        return
    prepare_celeba(args.outdir, plan, Steps(args.outdir))
    name = write_location(args.location_dir / f"{args.location}.yaml", data=args.outdir, results=args.results)
    print(f"finished; train with: bin/train.py -cn lama-fourier-celeba location={name}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder of the data set")
    parser.add_argument("source", help="folder of the images, zip or tar of them, or the address of one")
    parser.add_argument("--val-images", type=int, default=2000, help="images kept from training (default: 2000)")
    parser.add_argument(
        "--eval-sets", nargs="*", default=EVAL_SETS, help="configs of configs/data_gen (default: three)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete an archive that is unpacked")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes for the evaluation sets (default: 1)")
    parser.add_argument("--location", default="celeba_hq", help="name of the location config (default: celeba_hq)")
    parser.add_argument("--location-dir", type=Path, default=ROOT / "configs/training/location", help="its folder")
    parser.add_argument("--results", type=Path, default=ROOT, help="where runs and logs will go (default: here)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
