#!/usr/bin/env python3
"""Train a network: `bin/train.py -cn lama-fourier location=places_example data.batch_size=10`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from saicinpainting.io.signals import StopSignals

SIGNALS = StopSignals()
if __name__ == "__main__":
    SIGNALS.watch()  # before the imports below, which take seconds

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.config import register_resolvers


@hydra.main(config_path=str(ROOT / "configs" / "training"), config_name="lama-fourier", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    from saicinpainting.training.run import train

    train(config, HydraConfig.get().runtime.output_dir, SIGNALS)


if __name__ == "__main__":
    register_resolvers()  # before Hydra names the run's folder
    run_command(main, overrides=True)
