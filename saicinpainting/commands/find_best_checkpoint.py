"""Rank a run's checkpoints by a logged metric: find_best_checkpoint.py RUN [--metric val_lpips_total_mean] [--link]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saicinpainting.cli import command
from saicinpainting.config import read_experiment_config
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.training.log_reports import RunLog

OFFICIAL_MONITOR = "val_ssim_fid100_f1_total_mean"


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.training.checkpoint_ranking import BEST, rank_checkpoints, ranking_text

    if not (args.run / "models").is_dir():
        raise InputError(f"{args.run}: no folder models/ in it; expected a run's folder")
    log, problem = read_log(args.logs or args.run)
    metric, direction = what_is_best(args, log)
    ranking = rank_checkpoints(args.run / "models", metric, direction, log)
    if ranking.best is None:
        raise problem or InputError(f"{args.run}: none of its checkpoints was written at a step with {metric} logged")
    if problem:
        print(f"{problem}\nvalues are those of the checkpoints themselves", file=sys.stderr)
    print(ranking_text(ranking))
    if args.link and ranking.best != ranking.is_best:
        # Imported here: it brings Lightning with it, which takes longer than all the rest.
        from saicinpainting.training.checkpoints import replace_by_link

        replace_by_link(ranking.best.path, args.run / "models" / BEST)
        print(f"{BEST} is now {ranking.best.path.name}")


def what_is_best(args: argparse.Namespace, log: RunLog | None) -> tuple[str, str]:
    """The metric and its better direction, from the arguments or what the run itself was judged by."""
    from saicinpainting.training.log_reports import judged_by

    monitored: Any = {}
    if (args.run / "config.yaml").is_file():
        monitored = (read_experiment_config(args.run).get("trainer") or {}).get("checkpoint_kwargs") or {}
    asked = args.metric or monitored.get("monitor") or OFFICIAL_MONITOR
    mode = monitored.get("mode") if asked == monitored.get("monitor") else None
    metric, direction = judged_by(asked, mode, log.scalars if log and not args.metric else ())
    direction = args.mode or direction
    if metric is None or direction is None:
        raise InputError(f"--metric {metric}: which is better is not known; add --mode max or --mode min")
    return metric, direction


def read_log(path: Path) -> tuple[RunLog | None, InputError | None]:
    """The run's log, or why there is none."""
    from saicinpainting.training.log_reports import read_runs

    try:
        runs = read_runs(path)
    except InputError as error:
        return None, error
    if len(runs) > 1:
        raise InputError(f"{path}: logs of several runs ({', '.join(run.name for run in runs)}); name one with --logs")
    for file in runs[0].restarts:
        print(f"{file} begins anew; what was logged before is left out", file=sys.stderr)
    return runs[0], None


def parse_arguments() -> argparse.Namespace:

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run's folder with models/, ours or of the official code")
    parser.add_argument("--metric", help="a scalar that validation logs (default: what the run monitors)")
    parser.add_argument("--mode", choices=("max", "min"), help="which is better, where the metric's name does not say")
    parser.add_argument("--logs", type=Path, help="the run's folder of TensorBoard (default: as config.yaml says)")
    parser.add_argument("--link", action="store_true", help="make best.ckpt the best: a hard link, or else a copy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
