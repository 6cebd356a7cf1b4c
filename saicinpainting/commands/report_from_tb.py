"""TensorBoard's logs of one or several runs as a table and a plot: report_from_tb.py RUN… --out t.tsv --plot p.png"""

import argparse
import sys
from pathlib import Path

from saicinpainting.cli import command


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.training.log_reports import printed, read_all, report_table, write_plot, write_table

    runs = read_all(args.runs)
    for run in runs:
        for file in run.restarts:
            print(f"{run.name}: {file} begins anew; what was logged before is left out", file=sys.stderr)
    table = report_table(runs, args.tags, last=args.last)
    if args.out:
        write_table(table, args.out)
    if args.plot:
        write_plot(runs, args.plot, args.tags, smooth=args.smooth)
    print(printed(table))
    for title, path in (("table", args.out), ("plot", args.plot)):
        if path:
            print(f"{title}: {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs' folders or folders of TensorBoard, ours or old")
    parser.add_argument(
        "--tags",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="scalars to show, e.g. 'val_*' train_gen_l1 (default: all but deviations and bins of hole share)",
    )
    parser.add_argument("--last", type=positive, default=5, metavar="K", help="average K latest values (default: 5)")
    parser.add_argument("--out", type=Path, help="write the table to this file, tab-separated")
    parser.add_argument("--plot", type=Path, help="draw a panel a metric into this .png, .pdf or .svg")
    parser.add_argument(
        "--smooth", type=share, default=0.0, metavar="W", help="as TensorBoard's slider: 0 (default) to below 1"
    )
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got {text}")
    return value


if __name__ == "__main__":
    main()
