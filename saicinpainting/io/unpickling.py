"""Unpickling tensors and plain containers; nothing else that a file carries is made or called."""

from __future__ import annotations

import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch

LOGGER = logging.getLogger(__name__)
StateDict = dict[str, torch.Tensor]


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


class TensorUnpickler(pickle.Unpickler):
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
    return TensorUnpickler(file, **kwargs).load()


TENSOR_PICKLE = SimpleNamespace(
    __name__=__name__,
    Unpickler=TensorUnpickler,
    load=_load,
    UnpicklingError=pickle.UnpicklingError,
)
