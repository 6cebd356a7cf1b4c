#!/usr/bin/env python3
"""Fill the holes of a folder of images: `bin/predict.py model.path=EXPERIMENT indir=IN outdir=OUT`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hydra
from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.config import register_resolvers


@hydra.main(config_path=str(ROOT / "configs" / "prediction"), config_name="default", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    from saicinpainting.evaluation.predictor import load_predictor, predict_folder
    from saicinpainting.evaluation.utils import pick_device
    from saicinpainting.training.data.datasets import make_default_val_dataset

    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    device = pick_device(settings["device"])
    dataset = make_default_val_dataset(settings["indir"], **settings["dataset"])
    fill = load_predictor(
        settings["model"],
        device,
        out_key=settings["out_key"],
        refine=settings["refine"],
        refiner=settings["refiner"],
    )
    written = predict_folder(fill, dataset, settings["indir"], settings["outdir"], out_ext=settings["out_ext"])
    print(f"{len(written)} images written to {settings['outdir']}")


if __name__ == "__main__":
    register_resolvers()
    run_command(main)
