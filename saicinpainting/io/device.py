"""Small helpers of evaluation and prediction."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
CGROUP = Path("/sys/fs/cgroup")
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """What the setting `precision` says: `fp32`, `bf16` or `fp16`."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: unknown value {precision!r}; {did_you_mean(str(precision), PRECISIONS)}")
    return PRECISIONS[precision]


def warn_of_emulation(dtype: torch.dtype, device: torch.device) -> None:
    """One line if `device` is a GPU that has no units for bfloat16, which are there from Ampere (2020) on."""
    if dtype != torch.bfloat16 or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            LOGGER.warning(
                "precision=bf16: %s computes bfloat16 slowly or not at all; set precision=fp16, which it is fast in",
                torch.cuda.get_device_name(device),
            )


def pick_device(name: str | torch.device | None) -> torch.device:
    """`auto` (or nothing) is the first GPU if there is one, else the CPU; other names are torch's.

    A device that was picked already is taken as it is.
    """
    if isinstance(name, torch.device):
        return name
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:  # it would list every type that PyTorch was ever built for
        raise InputError(f"device={name} cannot be used here; expected one like {', '.join(DEVICES)}") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name} cannot be used here ({reason}); device=auto picks what is there") from error
    return device


def move_to_device(obj: Any, device: torch.device | str) -> Any:
    """The same nest of dicts, lists and tuples with every tensor and module on `device`.

    Anything else (strings, numbers, None) passes through unchanged.
    """
    return tree_map_only((torch.Tensor, torch.nn.Module), lambda part: part.to(device), obj)


def available_memory(device: torch.device) -> int:
    """Bytes that are free on `device`; of the machine's memory what the process may still take.

    What PyTorch keeps of a GPU without using it is free, as are pages of files that a container has read.
    """
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return min(limit - used + int(statistics["inactive_file"]), _free_memory())
    return _free_memory()


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return 8 << 30
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
