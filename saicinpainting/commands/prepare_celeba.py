"""Make the CelebA-HQ data set of the paper at 256 px: split, evaluation sets, location config.

    bin/prepare_celeba.py celeba-hq-dataset data256x256.zip      # or a folder of the 30,000 images, or an address

Start it again after an interruption: finished steps are skipped. About 3 GB for the images, as much again for an
archive. Then: bin/train.py -cn lama-fourier-celeba location=celeba_hq
"""

from __future__ import annotations

import argparse

from saicinpainting.cli import command
from saicinpainting.data.preparation.command import make_parser, prepare, shared_settings


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.data.preparation.celeba import CelebaHQ

    celeba = CelebaHQ(source=args.source, val_images=args.val_images, **shared_settings(args))
    prepare(args, celeba, config="lama-fourier-celeba")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, location="celeba_hq")
    parser.add_argument("source", help="folder of the images, zip or tar of them, or the address of one")
    parser.add_argument("--val-images", type=int, default=2000, help="images kept from training (default: 2000)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
