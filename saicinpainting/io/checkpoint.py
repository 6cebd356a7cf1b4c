"""Reading and writing checkpoints: tensors and plain values only, nothing a file carries is ever executed."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from saicinpainting.io.budgets import Budget, BudgetError
from saicinpainting.io.files import disk_problem, printable, whole
from saicinpainting.io.torch_files import NoCheckpointError, open_archive, read_archive, read_legacy
from saicinpainting.io.unpickling import StateDict
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
TAR_MAGIC_AT, TAR_MAGIC = 257, b"ustar"

MOST_IN_NAMES = 1 << 25
OF_A_NAME = 1 << 10
"""Characters that each counts as besides its own: some thirty thousand weights, a training run has a tenth of them."""
MOST_IN_HEADER = 1 << 23
"""Bytes that say what a `.safetensors` file holds."""
CONFIG = "config"
"""The key of the config's sections of the generator, for whoever has the file without its run's folder."""
# Parts of a training checkpoint that are constants (pretrained weights), by the prefix of their keys.
EVALUATOR_PREFIXES = ("val_evaluator.", "test_evaluator.", "extra_evaluators.")
FROZEN_PREFIXES = ("loss_resnet_pl.", "loss_pl.", "loss_extra.", *EVALUATOR_PREFIXES)


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Reads ours, the published ones (Lightning 1.2.9, with OmegaConf objects and callback classes pickled inside,
    which come back as inert stand-ins), bare state dicts and nested ones such as {"model": state dict}, the weights of
    TorchScript archives, and `.safetensors`.

    Args:
        map_location: the device of the tensors in `state_dict`.

    Returns:
        A dict with at least `state_dict`: name -> tensor.

    Raises:
        InputError: the file is missing, damaged or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(
            p.name for p in path.parent.glob("*") if p.suffix in (".ckpt", ".safetensors", ".pth", ".pt", ".onnx")
        )
        there = f"; there are: {', '.join(beside)}" if beside else ""
        raise InputError(f"checkpoint {path} does not exist{there}")
    if printable(str(path)) != str(path):
        raise InputError(f"checkpoint {path}: its name is no UTF-8, as torch needs it; rename it")
    try:
        if path.suffix == ".safetensors":
            checkpoint: Any = _read_safetensors(path, str(map_location))
        else:
            checkpoint = _read(path)
        state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
        tensors = dict(_tensors(state, Budget(MOST_IN_NAMES, "characters in the names of its weights")))
    except NoCheckpointError as error:
        raise InputError(f"checkpoint {path} is {error}") from error
    except Exception as error:  # a damaged or hostile file can fail anywhere inside the readers
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint {path}: expected a dict with state_dict, found {type(checkpoint).__name__}")
    if not tensors:
        raise InputError(f"checkpoint {path}: no weights in it (expected state_dict: name -> tensor)")
    tensors = {name: tensor.to(map_location) for name, tensor in tensors.items()}
    return {**checkpoint, "state_dict": tensors} if "state_dict" in checkpoint else {"state_dict": tensors}


def _read_safetensors(path: Path, device: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if MOST_IN_HEADER < header <= path.stat().st_size:
            raise BudgetError(f"a header of {header} bytes")
    checkpoint: dict[str, Any] = {"state_dict": load_file(path, device=device)}
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
    with contextlib.suppress(KeyError, ValueError):  # a file of others has none, or something else there
        checkpoint[CONFIG] = json.loads(metadata[CONFIG])
    return checkpoint


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(2)
        if start[:1] == b"\x80":
            file.seek(0)
            return read_legacy(file, path.stat().st_size)
        file.seek(TAR_MAGIC_AT)
        if file.read(len(TAR_MAGIC)) == TAR_MAGIC and not zipfile.is_zipfile(file):
            raise NoCheckpointError("a tar file; expected what torch.save writes")
        if start not in (b"", b"PK"):
            raise NoCheckpointError("no file of torch.save; give the checkpoint that it was made of")
        with open_archive(file) as archive:
            return read_archive(archive)


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return InputError(f"checkpoint {path} cannot be read ({reason}); copy it anew")


def _tensors(state: Any, budget: Budget, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested dicts, with dots between the names; `model.` of {"model": state dict}."""
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(name, str):
            budget.spend(OF_A_NAME + len(prefix) + len(name))
            if torch.is_tensor(value):
                yield prefix + name, value
            else:
                yield from _tensors(value, budget, f"{prefix}{name}.")


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that `path` is the old file or the new one whole, never a half-written one.

    `.safetensors` keeps `state_dict` and `config` alone.

    Raises:
        InputError: the disk is full, or may not be written to; the old file is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            _write(checkpoint, part, as_safetensors=path.suffix == ".safetensors")
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise InputError(f"checkpoint {path} cannot be written: {problem.removeprefix(f'{path}: ')}") from error


def _write(checkpoint: Mapping[str, Any], path: Path, *, as_safetensors: bool) -> None:
    # A file of Python's, because those of torch and safetensors do not hand on what the system says.
    with open(path, "wb") as file:
        if as_safetensors:
            metadata = {CONFIG: json.dumps(checkpoint[CONFIG])} if CONFIG in checkpoint else None
            file.write(save({k: v.contiguous() for k, v in checkpoint["state_dict"].items()}, metadata))
        else:
            torch.save(dict(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a renaming last over a power failure; where folders cannot be opened (Windows), the system sees to it."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot
                raise
        finally:
            os.close(descriptor)


def remove_parts(folder: str | Path) -> None:
    """Remove what processes that were killed while they wrote a checkpoint have left in `folder`.

    Nothing may be writing there.
    """
    for part in Path(folder).glob("*.part"):
        LOGGER.info("removing %s, half written by a run that was killed", part)
        part.unlink(missing_ok=True)


def without_prefixes(state: Mapping[str, torch.Tensor], prefixes: tuple[str, ...]) -> StateDict:
    """The entries whose name starts with none of `prefixes`."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def average_state_dicts(states: Iterable[Mapping[str, torch.Tensor]]) -> StateDict:
    """Mean of floating-point entries over the state dicts; counters are taken from the first.

    `states` may be a generator, so that averaging many epochs holds one of them at a time.
    """
    states = iter(states)
    first = next(states, None)
    if first is None:
        raise InputError("no checkpoints to average")
    total = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in first.items()}
    count = 1
    for state in states:
        if state.keys() != total.keys():
            odd = sorted(state.keys() ^ total.keys())
            raise InputError(f"cannot average checkpoints of different networks; only some of them have {odd[:3]}")
        for name, tensor in state.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor
        count += 1
    return {name: (total[name] / count).to(t.dtype) if t.is_floating_point() else t for name, t in first.items()}
