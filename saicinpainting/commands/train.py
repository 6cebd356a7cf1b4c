"""Train a network: `bin/train.py -cn lama-fourier location=places_example data.batch_size=10`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saicinpainting.io.signals import StopSignals

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIGNALS = StopSignals()


def main() -> None:
    SIGNALS.watch()  # before the imports below, in which a signal may come
    from saicinpainting.cli import hydra_command

    hydra_command("training", "lama-fourier")(train)()


def train(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from saicinpainting.training import run

    run.train(config, HydraConfig.get().runtime.output_dir, SIGNALS)
