"""Make the training data of lama-small from photographs that packages ship; nothing is installed.

Example: bin/prepare_lama_small.py DATA/lama_small
On Debian and Ubuntu the packages come by `apt-get download`; the table is configs/lama_small_sources.yaml. Elsewhere:
bin/prepare_lama_small.py DATA/lama_small --no-debian --photos PHOTOGRAPHS
OUTDIR gets train/ (JPEG tiles), val/ and held_out/ (PNG photographs, never trained on), and sources.json, which says
where everything came from, who made it and under which licence.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saicinpainting.cli import command
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.data.preparation.photographs import Found

HELD_OUT, VAL = 24, 8


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.data.preparation.lama_small import Recipe, describe, write_data
    from saicinpainting.data.preparation.packing import pack

    found, missing = gather(args)
    recipe = Recipe(seed=args.seed, patterns=args.patterns)
    recipe = replace(recipe, cutting=replace(recipe.cutting, per_photograph=args.per_photograph))
    print(describe(write_data(found, args.outdir, recipe), missing))
    if args.pack:
        print(f"{args.pack}: {pack(found, args.pack, limit_mb=args.limit_mb)}")


def gather(args: argparse.Namespace) -> tuple[list[Found], list[str]]:
    """The photographs that the arguments ask for, and a line for each that is missing."""
    from saicinpainting.data.preparation.packing import unpack
    from saicinpainting.data.preparation.photographs import draw_roles, find_photographs, read_table

    if args.packed:
        found, missing = unpack(args.packed, args.outdir / "photographs"), list[str]()
    else:
        cache = args.cache or args.outdir / "packages"
        found, missing = find_photographs(
            read_table(args.table), cache, debian=not args.no_debian, skip_missing=args.skip_missing
        )
    if args.photos:
        roles = [one.photograph.role for one in found]
        found += draw_roles(
            args.photos,
            held_out=max(0, HELD_OUT - roles.count("held_out")),
            val=max(0, VAL - roles.count("val")),
            seed=args.seed,
        )
    return found, missing


def parse_arguments() -> argparse.Namespace:
    from saicinpainting.data.preparation.photographs import TABLE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder for the data")
    parser.add_argument("--table", type=Path, default=TABLE, help="photographs and their packages (default: ours)")
    parser.add_argument("--cache", type=Path, help="where packages are kept (default: OUTDIR/packages)")
    parser.add_argument("--no-debian", action="store_true", help="leave out Debian's packages")
    parser.add_argument("--skip-missing", action="store_true", help="go on without what this release does not have")
    parser.add_argument("--photos", type=Path, help="a folder of photographs, besides those of the packages")
    parser.add_argument("--per-photograph", type=int, default=120, help="tiles of one at most (default: %(default)s)")
    parser.add_argument("--patterns", type=float, default=0.12, help="share of drawn tiles (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="also write a tar of the training photographs")
    parser.add_argument("--limit-mb", type=float, default=35, help="its size at most (default: %(default)s)")
    parser.add_argument("--packed", type=Path, metavar="FILE", help="take the photographs from such a tar")
    args = parser.parse_args()
    if not 0 <= args.patterns < 1:
        raise InputError(f"--patterns {args.patterns:g}: a share of the tiles is expected, from 0 to below 1")
    return args
