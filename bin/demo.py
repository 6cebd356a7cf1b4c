#!/usr/bin/env python3
"""A local page to try a checkpoint: `bin/demo.py model.path=RUN`"""

import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hydra
from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import one_line_errors, run_command
from saicinpainting.config import register_resolvers


@hydra.main(config_path=str(ROOT / "configs" / "prediction"), config_name="demo", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    from saicinpainting.inference.backends import load_array_backend
    from saicinpainting.inference.page import MAX_UPLOAD_MB, PLAIN, REFINED, make_page

    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    where, precision = (settings["model"], settings["device"]), settings["precision"]
    fills = {
        PLAIN: load_array_backend(*where, precision=precision),
        REFINED: load_array_backend(*where, refine=True, refiner=settings["refiner"], precision=precision),
    }
    page = make_page(fills, title=f"LaMa: {settings['model']['path']}", max_megapixels=settings["max_megapixels"])
    page.queue(max_size=8, default_concurrency_limit=1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that its images go with it
    page.launch(
        server_name=settings["host"],
        server_port=settings["port"],
        max_file_size=f"{MAX_UPLOAD_MB}mb",
        show_error=True,
    )


if __name__ == "__main__":
    register_resolvers()
    run_command(main, overrides=True)
