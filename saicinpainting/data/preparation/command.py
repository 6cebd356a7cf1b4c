"""What the commands that prepare a data set share: arguments, and the way from a plan to a location config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from saicinpainting.config import CONFIGS
from saicinpainting.data.preparation.steps import Steps, check_location, write_location

ROOT = CONFIGS.parent


class Plan(Protocol):
    def describe(self) -> str: ...


P = TypeVar("P", bound=Plan)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that takes the folder of the data set first."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder of the data set")
    return parser


def add_shared_arguments(parser: argparse.ArgumentParser, *, eval_sets: Sequence[str], location: str) -> None:
    """`eval_sets`, `location`: the defaults."""
    parser.add_argument(
        "--eval-sets",
        nargs="*",
        default=eval_sets,
        help=f"configs of configs/data_gen (default: {len(eval_sets)} of them)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives that are unpacked")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes for the evaluation sets (default: 1)")
    parser.add_argument("--location", default=location, help="name of the location config (default: %(default)s)")
    parser.add_argument("--location-dir", type=Path, default=ROOT / "configs/training/location", help="its folder")
    parser.add_argument("--results", type=Path, default=ROOT, help="where runs and logs will go (default: here)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What both plans take from these arguments."""
    return {name: getattr(args, name) for name in ("eval_sets", "seed", "keep_archives", "n_jobs")}


def carry_out(args: argparse.Namespace, plan: P, prepare: Callable[[Path, P, Steps], None], *, config: str) -> None:
    """Say what the plan is and, unless it is a dry run, do it; `config`: of the run that then can be started."""
    print(plan.describe())
    if args.dry_run:
        return
    location = args.location_dir / f"{args.location}.yaml"
    check_location(location, data=args.outdir, results=args.results)
    prepare(args.outdir, plan, Steps(args.outdir))
    name = write_location(location, data=args.outdir, results=args.results)
    print(f"finished; train with: bin/train.py -cn {config} location={name}")
