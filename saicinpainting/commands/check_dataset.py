"""Read every training image as a run would, and list what is unusual or broken.

Example: bin/check_dataset.py DATA/train --out-size 256 --n-jobs 8 --report check.tsv
INDIR may be a folder of shards with its index.json, too.
Exit status 1 where so many images are unusable that a run would stop.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from saicinpainting.cli import command
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.data.verification import ImageReport


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.data.loading import WORDS, Fitting, ImageIssue
    from saicinpainting.data.shard_index import INDEX
    from saicinpainting.data.shards import ShardSource
    from saicinpainting.data.sources import FolderSource
    from saicinpainting.data.verification import report_images

    packed = len(args.indir) == 1 and (args.indir[0] / INDEX).is_file()
    source = ShardSource(str(args.indir[0])) if packed else FolderSource(args.indir)
    reports = list(report_images(source, Fitting(args.out_size, crops=not args.no_crop), n_jobs=args.n_jobs))
    unusual = [report for report in reports if report.issue != ImageIssue.ORDINARY]
    for report in unusual:
        print(report)
    unusable = sum(not report.issue.usable for report in unusual)
    print(f"{len(reports)} images, {len(reports) - len(unusual)} ordinary, {unusable} unusable")
    for issue, count in sorted(Counter(report.issue for report in unusual).items()):
        print(f"{count:8d} {WORDS[issue]}")
    if args.report:
        write_table(args.report, unusual)
    if unusable > args.max_failures * len(reports):
        raise InputError(
            f"{unusable} of {len(reports)} images are unusable, more than --max-failures {args.max_failures:g}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("indir", type=Path, nargs="+", help="folders of training images, nested folders too")
    parser.add_argument("--out-size", type=int, default=256, help="data.train.out_size (default: %(default)s)")
    parser.add_argument("--no-crop", action="store_true", help="for no_augs and non_space_transform: the size must fit")
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--report", type=Path, help="also write the list as a tab-separated table")
    parser.add_argument("--max-failures", type=float, default=0.05, help="data.train.max_failures (default: 0.05)")
    return parser.parse_args()


def write_table(path: Path, reports: list[ImageReport]) -> None:
    rows = [
        (report.name, report.issue.name.lower(), report.width or "", report.height or "", report.reason)
        for report in reports
    ]
    lines = ["\t".join(str(cell) for cell in row) for row in [("file", "issue", "width", "height", "reason"), *rows]]
    write_whole(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
