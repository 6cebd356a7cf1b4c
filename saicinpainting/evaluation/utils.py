"""The official path of small helpers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from saicinpainting.io.device import move_to_device
from saicinpainting.io.yaml_files import read_yaml

__all__ = ["SmallMode", "load_yaml", "move_to_device"]


class SmallMode(Enum):
    """What is done with images smaller than a crop."""

    DROP = "drop"
    UPSCALE = "upscale"


class _Attributes(dict[str, Any]):
    """A dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __setattr__ = dict.__setitem__


def load_yaml(path: str | Path) -> Any:
    """What a YAML file holds; the keys of its mappings are attributes."""
    return _with_attributes(read_yaml(Path(path)))


def _with_attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return _Attributes({key: _with_attributes(part) for key, part in value.items()})
    return [_with_attributes(part) for part in value] if isinstance(value, list) else value
