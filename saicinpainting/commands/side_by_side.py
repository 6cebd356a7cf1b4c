"""Several runs in pictures: side_by_side.py SET OUT.html NAME=PREDICTIONS NAME=PREDICTIONS …"""

from __future__ import annotations

import argparse
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.utils import InputError


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datadir", type=Path, help="folder of images and masks")
    parser.add_argument("out", type=Path, help="page to write, .html; it needs no other file")
    parser.add_argument("runs", nargs="+", metavar="NAME=PREDICTIONS", help="folders of predictions of that set")
    parser.add_argument("--count", type=int, default=24, help="how many images; 0: all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--img-suffix", default=".png", help="ending of the images (default: %(default)s)")
    args = parser.parse_args()
    from saicinpainting.evaluation.qualitative import write_side_by_side

    if args.out.suffix.lower() != ".html":
        raise InputError(f"{args.out}: expected a page to write, .html, as the second argument: SET OUT.html NAME=…")
    runs: dict[str, Path] = {}
    for run in args.runs:
        name, equals, folder = run.partition("=")
        if not equals or not name or name in runs:
            raise InputError(f"{run}: expected NAME=PREDICTIONS with a name of its own")
        runs[name] = Path(folder)
    options = {"count": args.count, "seed": args.seed, "img_suffix": args.img_suffix}
    rows = write_side_by_side(args.datadir, runs, args.out, **options)
    print(f"{rows} images, {len(runs)} runs -> {args.out}")


if __name__ == "__main__":
    main()
