"""Small helpers of evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def move_to_device(obj: Any, device: torch.device | str) -> Any:
    """The same nest of mappings, lists and tuples with every tensor and module on `device`.

    Anything else (strings, numbers, None) passes through unchanged.
    """
    if isinstance(obj, (torch.Tensor, torch.nn.Module)):
        return obj.to(device)
    if isinstance(obj, Mapping):
        return {key: move_to_device(value, device) for key, value in obj.items()}
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return type(obj)(*(move_to_device(value, device) for value in obj))
    if isinstance(obj, (list, tuple)):
        return type(obj)(move_to_device(value, device) for value in obj)
    return obj
