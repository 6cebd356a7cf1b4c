"""When and how a run compiles its networks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
# Compilation takes minutes, and the first steps of each image size with it.
COMPILE_FROM_STEPS = 5000


def uncompiled(condition: bool = True) -> AbstractContextManager[Any]:
    """Within, compiled networks compute as they would without a compiler, if `condition`."""
    return torch.compiler.set_stance("force_eager") if condition else nullcontext()


def wants_compilation(setting: bool | str, device: torch.device, *, planned_steps: Callable[[], float]) -> bool:
    """Whether `training_model.compile` means to compile for a run of so many steps on this device.

    `auto` says no on a CPU, where convolutions take nearly all the time and are not what gets compiled.
    """
    if setting == "auto":
        return device.type == "cuda" and planned_steps() >= COMPILE_FROM_STEPS
    return bool(setting)


def compile_networks(networks: Iterable[nn.Module], *, device: torch.device, required: bool) -> bool:
    """Compile each network's forward and backward pass in place: names, weights and hooks stay what they are.

    Without a working compiler the networks stay as they are, with a warning; where `required` that is an error.
    Returns whether they were compiled.
    """
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # whatever is missing: a C++ compiler, Triton, Python's headers
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        if required:
            raise InputError(f"training_model.compile=true, but nothing can be compiled here ({reason})") from error
        LOGGER.warning("training_model.compile: nothing can be compiled here (%s); training uncompiled", reason)
        return False
    for network in networks:
        if not required and any(isinstance(part, nn.SyncBatchNorm) for part in network.modules()):
            continue  # at each of these norms, which ask the other processes, a compiler gives up and begins anew
        # For the sizes it meets: with sizes that vary a smaller last batch would slow down all others after it.
        network.compile(dynamic=False)
    LOGGER.info("compiling the networks: the first steps take minutes")
    return True
