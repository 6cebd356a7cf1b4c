#!/usr/bin/env python3
"""From a checkpoint to a table: `bin/evaluate.py model.path=RUN indir=PHOTOS outdir=OUT sets=[thin,medium,thick]`."""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hydra
from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.config import register_resolvers


@hydra.main(config_path=str(ROOT / "configs" / "evaluation"), config_name="default", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    from saicinpainting.evaluation.checkpoint import evaluate_checkpoint
    from saicinpainting.evaluation.report import summary_table

    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    folder = evaluate_checkpoint(settings)
    print(summary_table(folder / "results.json"))
    print(f"tables and report: {folder}/results.csv, results.json, images.csv, report.html")


if __name__ == "__main__":
    register_resolvers()
    logging.captureWarnings(True)
    run_command(main, overrides=True)
