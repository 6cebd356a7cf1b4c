"""Make the Places365 data set of the paper: download, unpack, evaluation sets, location config.

    bin/prepare_places.py places_standard_dataset --n-jobs 8         # 126 GB of images, up to 105 GB more meanwhile
    bin/prepare_places.py places_challenge_dataset --train challenge # 497 GB of images, up to 476 GB more meanwhile

Start it again after an interruption: downloads and unpacking go on, finished steps are skipped. Archives that were
downloaded by hand go into the data set's folder; unless --keep-archives is given, archives are deleted when they are
unpacked. Then: bin/train.py -cn lama-fourier location=places
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.data.preparation.command import make_parser, prepare, read_checksums, shared_settings


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.data.preparation.places import Places

    places = Places(
        train=None if args.train == "none" else args.train,
        val_images=args.val_images,
        visual_images=args.visual_images,
        eval_images=args.eval_images,
        eval_list=args.eval_list,
        address=args.url,
        checksums=read_checksums(args.checksums),
        **shared_settings(args),
    )
    prepare(args, places, config="lama-fourier")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, location="places")
    parser.add_argument(
        "--train", choices=("standard", "challenge", "none"), default="standard", help="training images"
    )
    parser.add_argument("--val-images", type=int, default=2000, help="images that judge checkpoints (default: 2000)")
    parser.add_argument("--visual-images", type=int, default=100, help="images for pictures (default: 100)")
    parser.add_argument("--eval-images", type=int, default=30000, help="images of the evaluation (default: 30000)")
    parser.add_argument("--eval-list", type=Path, help="a file that names them, instead of a random draw")
    parser.add_argument("--url", help="folder of a mirror")
    parser.add_argument("--checksums", type=Path, help="md5sum file of the mirror's archives, if they are others")
    return parser.parse_args()


if __name__ == "__main__":
    main()
