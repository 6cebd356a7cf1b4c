"""A local page to try models: `bin/demo.py model.path=RUN`"""

import signal
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import hydra_command
from saicinpainting.config import command_config


@hydra_command("prediction", "demo")
def main(config: DictConfig) -> None:
    from saicinpainting.inference.backends import ArrayBackend, load_array_backend
    from saicinpainting.inference.page import launch_page, make_page
    from saicinpainting.inference.page_models import PageModels

    config = command_config(config, "prediction/demo.yaml")
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)

    def load(model: Mapping[str, Any], refine: bool) -> ArrayBackend:
        options = {key: settings[key] for key in ("precision", "trust")}
        options |= {"refine": True, "refiner": settings["refiner"]} if refine else {"strategy": settings["strategy"]}
        return load_array_backend(model, settings["device"], **options)

    models = PageModels(settings["model"]["path"], settings["model"]["checkpoint"], load)
    page = make_page(models, max_megapixels=settings["max_megapixels"])
    models.get(models.first)  # what is wrong with it shows here, not in the browser
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that its images go with it
    launch_page(page, host=settings["host"], port=settings["port"])


if __name__ == "__main__":
    main()
