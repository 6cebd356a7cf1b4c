"""Make the training data of lama-small from photographs that packages ship; nothing is installed.

Example: bin/prepare_lama_small.py DATA/lama_small
On Debian and Ubuntu the packages come by `apt-get download`; the table is configs/lama_small_sources.yaml. Elsewhere:
bin/prepare_lama_small.py DATA/lama_small --no-debian --photos PHOTOGRAPHS
On a machine that reaches no packages, from a tar that --pack wrote on another one:
bin/prepare_lama_small.py DATA/lama_small --packed FILE
OUTDIR gets train/ (JPEG tiles), val/ and held_out/ (PNG photographs, never trained on), and sources.json, which says
where everything came from, who made it and under which licence. What it was made of stays there too: packages/ (unless
--cache names another folder), or photographs/ of --packed.
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

HELD_OUT, VAL = 24, 8  # photographs that --photos fills up to, where packages are left out; as many as our table has


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
    from saicinpainting.data.preparation.photographs import TABLE, draw_roles, find_photographs, read_table

    if args.packed:
        found, missing = unpack(args.packed, args.outdir / "photographs"), list[str]()
    else:
        cache = args.cache or args.outdir / "packages"
        found, missing = find_photographs(
            read_table(args.table or TABLE), cache, debian=not args.no_debian, skip_missing=args.skip_missing
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder for the data")
    parser.add_argument("--table", type=Path, help="photographs and their packages (default: ours)")
    parser.add_argument("--cache", type=Path, help="folder of Debian's packages (default: OUTDIR/packages)")
    parser.add_argument("--no-debian", action="store_true", help="leave out Debian's packages")
    parser.add_argument("--skip-missing", action="store_true", help="leave out what this machine cannot get")
    parser.add_argument("--photos", type=Path, help="a folder of your photographs, used besides those of the packages")
    parser.add_argument(
        "--per-photograph",
        type=int,
        default=120,
        help="most tiles cut from one photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--patterns",
        type=float,
        default=0.12,
        help="share of the training tiles that are drawn patterns, from 0 to below 1 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: %(default)s)")
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="also write a tar of the training and validation photographs"
    )
    parser.add_argument(
        "--limit-mb", type=float, default=35, help="largest size of that tar, in 10^6 bytes (default: %(default)s)"
    )
    parser.add_argument("--packed", type=Path, metavar="FILE", help="take the photographs from such a tar")
    args = parser.parse_args()
    if not 0 <= args.patterns < 1:
        raise InputError(f"--patterns {args.patterns:g}: a share of the tiles is expected, from 0 to below 1")
    of_packages = {
        "--table": args.table is not None,
        "--cache": args.cache is not None,
        "--no-debian": args.no_debian,
        "--skip-missing": args.skip_missing,
    }
    if args.packed and any(of_packages.values()):
        ignored = ", ".join(option for option, given in of_packages.items() if given)
        raise InputError(f"--packed takes the photographs from its file, not from packages; leave out {ignored}")
    return args


if __name__ == "__main__":
    main()
