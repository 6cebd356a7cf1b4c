"""The official path and signature of the training module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.training.factory import module_parts
from saicinpainting.training.module import InpaintingModule


class DefaultInpaintingTrainingModule(InpaintingModule):
    """The training module of a whole config.

    Args:
        config: with the sections `generator`, `training_model` and, unless `predict_only`, those of training.
        use_ddp: decides nothing; the trainer's strategy does.
        predict_only: build the generator alone.
        settings: further keys of `training_model`, before those of the config.
    """

    def __init__(
        self,
        config: DictConfig | Mapping[str, Any],
        use_ddp: bool = False,
        predict_only: bool = False,
        **settings: Any,
    ) -> None:
        whole = OmegaConf.merge(config, {"training_model": {**settings, "predict_only": predict_only}})
        assert isinstance(whole, DictConfig)
        super().__init__(**module_parts(whole))
