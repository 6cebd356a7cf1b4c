"""A local page to try a checkpoint: `bin/demo.py model.path=RUN`"""

import signal
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import hydra_command


@hydra_command("prediction", "demo")
def main(config: DictConfig) -> None:
    from saicinpainting.inference.backends import load_array_backend
    from saicinpainting.inference.page import MAX_UPLOAD_MB, PLAIN, REFINED, make_page

    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    where = (settings["model"], settings["device"])
    options = {"precision": settings["precision"], "trust": settings["trust"]}
    fills = {
        PLAIN: load_array_backend(*where, **options),
        REFINED: load_array_backend(*where, refine=True, refiner=settings["refiner"], **options),
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
