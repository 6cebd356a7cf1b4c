"""From a checkpoint to a table: `bin/evaluate.py model.path=RUN indir=PHOTOS outdir=OUT sets=[thin,medium,thick]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import hydra_command
from saicinpainting.config import command_config

if TYPE_CHECKING:
    from saicinpainting.io.ranks import Ranks


@hydra_command("evaluation", "default")
def main(config: DictConfig) -> None:
    from saicinpainting.io.ranks import run_ranks

    config = command_config(config, "evaluation/default.yaml", open_sections=["dataset"])
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    run_ranks(evaluate, settings)


def evaluate(settings: dict[str, Any], ranks: Ranks) -> None:
    """Evaluate as configs/evaluation/default.yaml describes it, each rank its share, and print the table."""
    from saicinpainting.evaluation.checkpoint import evaluate_checkpoint
    from saicinpainting.evaluation.report import summary_table

    folder = evaluate_checkpoint(settings, ranks)
    if not ranks.first:
        return
    print(summary_table(folder / "results.json"))
    print(f"tables and report: {folder}/results.csv, results.json, images.csv, report.html")
    if (folder.parent / "table.md").exists():
        print(f"all models: {folder.parent}/table.md, table.tex")


if __name__ == "__main__":
    main()
