"""Train a network: `bin/train.py -cn lama-fourier location=places_example data.batch_size=10`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from saicinpainting.io.signals import StopSignals

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIGNALS = StopSignals()


def main() -> None:
    SIGNALS.watch()  # before the imports below, in which a signal may come
    from saicinpainting.cli import hydra_command
    from saicinpainting.training import sweep

    sys.argv[1:] = sweep.with_callback(sys.argv[1:])
    failed = 0
    try:
        hydra_command("training", "lama-fourier")(train)()
    finally:
        failed = sweep.finish_sweep()
    if failed:
        print(f"error: {failed} of the sweep's runs did not end well; the table says which", file=sys.stderr)
        sys.exit(1)


def train(config: DictConfig) -> float | None:
    """Returns, in a sweep, the best value of what the run monitors."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from saicinpainting.training import sweep

        return sweep.train_one(config, HydraConfig.get(), SIGNALS)
    from saicinpainting.training import run

    run.train(config, HydraConfig.get().runtime.output_dir, SIGNALS)
    return None


if __name__ == "__main__":
    main()
