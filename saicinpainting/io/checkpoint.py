"""Reading and writing checkpoints: tensors and plain values only, nothing a file carries is ever executed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from saicinpainting.io.files import disk_problem, printable, whole
from saicinpainting.io.torchscript import read_torchscript
from saicinpainting.io.unpickling import TENSOR_PICKLE, StateDict
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

DOS_FOLDER = 0x10
"""Bit of an archive entry's attributes."""

# Parts of a training checkpoint that are constants (pretrained weights), by the prefix of their keys.
EVALUATOR_PREFIXES = ("val_evaluator.", "test_evaluator.", "extra_evaluators.")
FROZEN_PREFIXES = ("loss_resnet_pl.", "loss_pl.", "loss_extra.", *EVALUATOR_PREFIXES)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Reads ours, the published ones (Lightning 1.2.9, with OmegaConf objects and callback classes pickled inside,
    which come back as inert stand-ins), bare state dicts and nested ones such as {"model": state dict}, the weights of
    TorchScript archives, and `.safetensors`.

    Returns:
        A dict with at least `state_dict`: name -> tensor.

    Raises:
        InputError: the file is missing, damaged or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".ckpt", ".safetensors", ".pth"))
        there = f"; there are: {', '.join(beside)}" if beside else ""
        raise InputError(f"checkpoint {path} does not exist{there}")
    if printable(str(path)) != str(path):
        raise InputError(f"checkpoint {path}: its name is no UTF-8, as torch needs it; rename it")
    if path.suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path, map_location)}
    check_undamaged(path)
    if _is_program(path):
        raise InputError(
            f"checkpoint {path} is a program of torch.export, for torch.export.load or AOTInductor in an application; "
            "give the checkpoint that it was exported from"
        )
    is_script = _is_script(path)
    try:
        checkpoint: Any = (
            {"state_dict": read_torchscript(path)}
            if is_script
            else torch.load(path, map_location=map_location, pickle_module=TENSOR_PICKLE, weights_only=False)
        )
    except Exception as error:  # a damaged or hostile file can fail anywhere inside the unpickler
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint {path}: expected a dict with state_dict, found {type(checkpoint).__name__}")
    tensors = dict(_tensors(checkpoint.get("state_dict", checkpoint)))
    if not tensors:
        raise InputError(f"checkpoint {path}: no weights in it (expected state_dict: name -> tensor)")
    return {**checkpoint, "state_dict": tensors} if "state_dict" in checkpoint else {"state_dict": tensors}


def check_undamaged(path: str | Path) -> None:
    """Compare a checkpoint with the checksums inside it, which torch does not do when it reads.

    Files that have none (`.safetensors`, torch before 1.6) pass if they are there.

    Raises:
        InputError: the file is missing, cut off, or has other bytes than were written.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if path.suffix == ".safetensors" or file.read(1) == b"\x80":  # a bare pickle
                return
        with zipfile.ZipFile(path) as archive:
            # torch would take what is marked as a folder for read, and leave its tensor as the memory happens to be.
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & DOS_FOLDER]
            damaged = next(iter(folders), None) or archive.testzip()
    except Exception as error:  # a damaged directory can say anything: other encodings, methods, passwords
        raise _unreadable(path, error) from error
    if damaged:
        raise InputError(f"checkpoint {path} cannot be read ({damaged} in it is damaged); copy it anew")


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return InputError(f"checkpoint {path} cannot be read ({reason}); copy it anew")


def _tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested dicts, with dots between the names; `model.` of {"model": state dict}."""
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(name, str):
            if torch.is_tensor(value):
                yield prefix + name, value
            else:
                yield from _tensors(value, f"{prefix}{name}.")


def _is_program(path: Path) -> bool:
    """Whether the file is one of `torch.export.save`, a `.pt2`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "archive_format" in names or any("serialized_exported_program" in name for name in archive.namelist())


def _is_script(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which `torch.load` would hand to `torch.jit.load`, code and all.

    The archive is listed with torch's own reader, so that no file looks harmless here and like a program there.

    Raises:
        InputError: it is a tar file, which `torch.load` would unpack, or reading is switched off.
    """
    if os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true"):
        raise InputError(
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD is set, which forbids torch to read checkpoints of Lightning 1; unset it: "
            "tensors alone are read here in any case"
        )
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:  # no zip archive: the format of torch before 1.6, or damaged
        if tarfile.is_tarfile(path):
            raise InputError(f"checkpoint {path} is a tar file; expected what torch.save writes") from None
        return False
    except Exception as error:  # names that are no text
        raise _unreadable(path, error) from error
    return "constants.pkl" in records or any(record.startswith("code/") for record in records)


def _read_safetensors(path: Path, map_location: Any) -> StateDict:
    try:
        return load_file(path, device=str(map_location))
    except Exception as error:
        raise _unreadable(path, error) from error


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that `path` is the old file or the new one whole, never a half-written one.

    `.safetensors` keeps the `state_dict` alone.

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
            file.write(save({k: v.contiguous() for k, v in checkpoint["state_dict"].items()}))
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
