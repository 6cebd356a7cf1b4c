"""The official path of small helpers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from saicinpainting.io.device import move_to_device

__all__ = ["SmallMode", "load_yaml", "move_to_device"]


class SmallMode(Enum):
    """What is done with images smaller than a crop."""

    DROP = "drop"
    UPSCALE = "upscale"


def load_yaml(path: str | Path) -> Any:
    """The config in a YAML file; its keys are attributes."""
    return OmegaConf.load(path)
