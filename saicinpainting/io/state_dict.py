"""State dicts of pretrained networks in files of torch.save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saicinpainting.utils import InputError


def read_state_dict(path: Any, *, what: str) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what}: cannot read {path} ({reason}); delete it to have it fetched again") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{what}: {path} holds a {type(state).__name__}, expected a mapping of tensors")
    return dict(state)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], *, path: Any, what: str) -> None:
    """Load `state` from the file `path`; names and shapes must match."""
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what}: {path} holds weights of another network ({reason}); delete it") from error
