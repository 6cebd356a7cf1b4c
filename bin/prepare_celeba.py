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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.cli import run_command
from saicinpainting.data.preparation.celeba import EVAL_SETS, CelebaPlan, prepare_celeba
from saicinpainting.data.preparation.command import add_shared_arguments, carry_out, make_parser, shared_settings


def main() -> None:
    args = parse_arguments()
    plan = CelebaPlan(source=args.source, val_images=args.val_images, **shared_settings(args))
    carry_out(args, plan, prepare_celeba, config="lama-fourier-celeba")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("source", help="folder of the images, zip or tar of them, or the address of one")
    parser.add_argument("--val-images", type=int, default=2000, help="images kept from training (default: 2000)")
    add_shared_arguments(parser, eval_sets=EVAL_SETS, location="celeba_hq")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
