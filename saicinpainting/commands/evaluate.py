"""From a checkpoint to a table: `bin/evaluate.py model.path=RUN indir=PHOTOS outdir=OUT sets=[thin,medium,thick]`."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import hydra_command


@hydra_command("evaluation", "default")
def main(config: DictConfig) -> None:
    from saicinpainting.evaluation.checkpoint import evaluate_checkpoint
    from saicinpainting.evaluation.report import summary_table

    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    folder = evaluate_checkpoint(settings)
    print(summary_table(folder / "results.json"))
    print(f"tables and report: {folder}/results.csv, results.json, images.csv, report.html")
    if (folder.parent / "table.md").exists():
        print(f"all models: {folder.parent}/table.md, table.tex")
