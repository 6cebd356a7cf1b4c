"""Weights of pretrained networks: read as checkpoints are, and loaded whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.utils import InputError


def read_state_dict(path: str | Path, *, what: str) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU; nothing else in it is executed.

    Args:
        path: the file.
        what: whose weights it should hold, for errors.
    """
    try:
        return read_checkpoint(path)["state_dict"]
    except InputError as error:
        raise InputError(f"{what}: {error}, or delete it to have it downloaded again") from error


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], *, path: str | Path, what: str) -> None:
    """Load `state` from the file `path`; names and shapes must match.

    Files from before torch 0.4.1 have no `num_batches_tracked`, which evaluation mode has no use for.

    Raises:
        InputError: the weights are another network's.
    """
    try:
        missing, unknown = network.load_state_dict(state, strict=False, assign=True)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        problem = f"it lacks {missing[0]}" if missing else f"unknown key {unknown[0]}" if unknown else ""
    except RuntimeError as error:  # of the shapes
        problem = " ".join(str(error).split())[:200]
    if problem:
        raise InputError(
            f"{what}: {path} holds weights of another network than {type(network).__name__} ({problem}); delete it to "
            "have it downloaded again"
        )
