"""What several tests share: the golden recipe for weights and inputs, and the golden files."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
M = TypeVar("M", bound=nn.Module)


def fill(module: M) -> M:
    """Fill `module` with the seeded weights of tests/golden/README.md, in place; each tensor keeps its dtype."""
    state = module.state_dict()
    module.load_state_dict({key: _filled(key, tensor) for key, tensor in state.items()})
    return module


def _filled(key: str, tensor: torch.Tensor) -> torch.Tensor:
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    shape = tuple(tensor.shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros_like(tensor)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", "bias")):
        value = rng.standard_normal(shape) * 0.05
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.2, shape)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.as_tensor(value).to(torch.float32).to(tensor.dtype)


def rand(seed: int, *shape: int) -> torch.Tensor:
    """Uniform float32 input of the golden recipe."""
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype("float32"))


@cache
def golden_values() -> dict[str, Any]:
    return json.loads((GOLDEN / "values.json").read_text())


@cache
def golden_arrays() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "arrays.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@cache
def golden_keys() -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / "state_dict_keys.json").read_text())
