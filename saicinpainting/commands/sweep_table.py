"""A table over the runs of a sweep, or of any folder of runs: sweep_table.py FOLDER [--metric val_lpips_total_mean]"""

from __future__ import annotations

import argparse
from pathlib import Path

from saicinpainting.cli import command


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.training.sweep_table import as_markdown, sweep_table, write_sweep_table

    table = sweep_table(args.folder, args.metric)
    if args.out:
        write_sweep_table(table, args.out)
    print(as_markdown(table), end="")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep's folder, or one with runs in it")
    parser.add_argument("--metric", help="a scalar that validation logs (default: what the runs monitor)")
    parser.add_argument("--out", type=Path, help="write the table to this .md or .csv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
