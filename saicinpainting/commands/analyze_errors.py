"""The failures of an evaluated model, the worst first: analyze_errors.py OUT/MODEL [--against OUT/OTHER]"""

from __future__ import annotations

import argparse
from pathlib import Path

from saicinpainting.cli import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="a model's folder that bin/evaluate.py wrote")
    parser.add_argument("--by", help="column of images.csv; default: lpips, or what was measured instead")
    parser.add_argument("--set", help="one of the sets; default: all of them")
    parser.add_argument("--against", type=Path, help="another model's folder: order by how much worse this one is")
    parser.add_argument("--top", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="page of pictures (default: EVALUATION/errors.html)")
    args = parser.parse_args()
    from saicinpainting.evaluation.qualitative import find_failures, write_failures

    failures = find_failures(args.evaluation, by=args.by, set_name=args.set, against=args.against)
    print(failures.by_hole.to_string(float_format="{:.4f}".format, na_rep=""), end="\n\n")
    print(failures.ranked.head(args.top).to_string(index=False, float_format="{:.4f}".format))
    out = args.out or args.evaluation / "errors.html"
    write_failures(args.evaluation, failures, out, top=args.top, against=args.against)
    print(f"pictures -> {out}")


if __name__ == "__main__":
    main()
