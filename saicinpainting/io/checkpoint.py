"""Reading and writing checkpoints: tensors and plain values only, nothing a file carries is ever executed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save

from saicinpainting.io.files import disk_problem, printable, whole
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]

DOS_FOLDER = 0x10
"""Bit of an archive entry's attributes."""

# Parts of a training checkpoint that are constants (pretrained weights), by the prefix of their keys.
FROZEN_PREFIXES = (
    "loss_resnet_pl.",
    "loss_pl.",
    "loss_extra.",
    "val_evaluator.",
    "test_evaluator.",
    "extra_evaluators.",
)


class _Ignored:
    """Stands for an object of a class we do not read (OmegaConf, Lightning callbacks, an attacker's payload).

    Pickle may create it, call it and fill it; nothing happens.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Ignored:
        return _Ignored()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Iterable[Any]) -> None:
        pass


class _Function:
    """An allowed function without attributes, so that a pickle cannot change it for later callers."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    # The arguments that follow (requires_grad, hooks, metadata) are of no use for weights at rest.
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _allowed() -> dict[tuple[str, str], Any]:
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    }
    for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"):
        allowed["torch", name] = getattr(torch, name)
    return allowed


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; every other global becomes a class that does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._classes = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._classes:
            LOGGER.debug("checkpoint: left out an object of %s.%s", module, name)
            self._classes[module, name] = type("Ignored", (_Ignored,), {"__doc__": f"Stands for {module}.{name}"})
        return self._classes[module, name]


def _load(file: Any, **kwargs: Any) -> Any:
    return _TensorUnpickler(file, **kwargs).load()


_TENSOR_PICKLE = SimpleNamespace(
    __name__="saicinpainting.io.checkpoint",
    Unpickler=_TensorUnpickler,
    load=_load,
    UnpicklingError=pickle.UnpicklingError,
)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Reads ours, the published ones (Lightning 1.2.9, with OmegaConf objects and callback classes pickled inside,
    which come back as inert stand-ins), bare state dicts, and `.safetensors`.

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
    _refuse_programs(path)
    try:
        checkpoint = torch.load(path, map_location=map_location, pickle_module=_TENSOR_PICKLE, weights_only=False)
    except Exception as error:  # a damaged or hostile file can fail anywhere inside the unpickler
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint {path}: expected a dict with state_dict, found {type(checkpoint).__name__}")
    state = checkpoint.get("state_dict", checkpoint)
    tensors = {k: v for k, v in state.items() if _is_weight(k, v)} if isinstance(state, Mapping) else {}
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


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and torch.is_tensor(value)


def _refuse_programs(path: Path) -> None:
    """Stop before `torch.load` would go another way than through our unpickler.

    It hands TorchScript archives, which carry code, to `torch.jit.load`, and unpacks tar files. The archive is listed
    with torch's own reader, so that no file looks harmless here and like a program there.
    """
    if os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true"):
        raise InputError(
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD is set, which forbids torch to read checkpoints of Lightning 1; unset it: "
            "tensors alone are read here in any case"
        )
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:  # no zip archive: the format of torch before 1.6, or damaged
        records = []
        if tarfile.is_tarfile(path):
            raise InputError(f"checkpoint {path} is a tar file; expected what torch.save writes") from None
    except Exception as error:  # names that are no text
        raise _unreadable(path, error) from error
    if "constants.pkl" in records or any(record.startswith("code/") for record in records):
        raise InputError(f"checkpoint {path} is a TorchScript program, not weights; it is not loaded")


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
