"""Unpickling tensors and plain containers; nothing else that a file carries is made or called."""

from __future__ import annotations

import logging
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

import torch

from saicinpainting.io.budgets import Budget, check_nesting

LOGGER = logging.getLogger(__name__)
StateDict = dict[str, torch.Tensor]

MOST_OPERATIONS = 600_000
"""Of a pickle. Big-LaMa with its optimizers' states takes a quarter of it; all of them a second or two."""
NEW_CLASS, NEW_TENSOR, OTHER_KEY = 100, 5, 50
"""Operations that these count as, for what they take; keys other than text."""
LARGEST_KEY = 64
"""Bits of a number that is a key: its hash goes through all of them, each time."""
MOST_EXPANDED = 1 << 20
"""Elements that a tensor may have beyond those stored, by a stride of 0."""
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


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

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Iterable[Any]) -> None:
        pass


class ScriptModule(dict[str, Any]):
    """A module of a TorchScript archive: its attributes, without its code."""


class _Function:
    """An allowed function, without attributes that a pickle could change for later callers."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A tensor in a storage, a (N,) tensor. Older versions of torch would let it lie outside.

    The arguments that follow (requires_grad, hooks, metadata) are of no use for weights at rest.
    """
    whole = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not whole or not all(type(number) is int and 0 <= number < 1 << 48 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    elements, stored = math.prod(size), storage.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if elements else offset - 1
    if last >= stored or elements > stored + MOST_EXPANDED:
        raise pickle.UnpicklingError(f"a tensor of {elements} elements in a storage of {stored}")
    return torch.empty(0, dtype=storage.dtype).set_(storage.untyped_storage(), offset, size, stride)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in STORAGES.values()},
}


def pickle_budget() -> Budget:
    return Budget(MOST_OPERATIONS, "operations")


# Python's own unpickler in Python: that in C takes memory for any number a pickle names, and cannot be told what not
# to hash.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class TensorUnpickler(_PythonUnpickler):
    """Rebuilds tensors and plain containers; every other global becomes a class that does nothing.

    Sets, byte arrays, extensions and classes in the way of Python 1 are refused.

    Args:
        file: where the pickle begins.
        make_storage: the storage, a (N,) tensor, of a dtype, a key and a number of elements.
        scripted: classes of TorchScript become `ScriptModule`.
        budget: that of several pickles of a file.
    """

    def __init__(
        self,
        file: IO[bytes],
        make_storage: Callable[[torch.dtype, str, int], torch.Tensor],
        *,
        scripted: bool = False,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._classes = dict(_ALLOWED)
        self._make_storage, self._scripted = make_storage, scripted
        self._storages: dict[str, torch.Tensor] = {}
        self._budget = budget or pickle_budget()

    def load(self) -> Any:
        """What the pickle holds; errors of damaged ones are of any kind."""
        value = super().load()
        check_nesting(value, MOST_OPERATIONS)
        return value

    def find_class(self, module: str, name: str) -> Any:
        if self._scripted and module.startswith("__torch__"):
            return ScriptModule
        if module.startswith("torch") and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in self._classes:
            self._budget.spend(NEW_CLASS)
            LOGGER.debug("checkpoint: left out an object of %s.%s", module, name)
            self._classes[module, name] = type("Ignored", (_Ignored,), {})
        return self._classes[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """A storage: ("storage", its type, its key, the device, the number of elements)."""
        if not isinstance(pid, tuple) or len(pid) > 6:
            raise pickle.UnpicklingError("an unknown kind of storage")
        _, dtype, key, _, elements, *views = pid
        plain = isinstance(dtype, torch.dtype) and isinstance(key, str) and type(elements) is int and elements >= 0
        if not plain or any(view is not None for view in views):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if key not in self._storages:
            self._storages[key] = self._make_storage(dtype, key, elements)
        storage = self._storages[key]
        if storage.dtype != dtype or storage.numel() != elements:
            raise pickle.UnpicklingError(f"storage {key} is of two kinds")
        return storage

    # ---- operations ------------------------------------------------------------------------------------------------

    def _call(self) -> None:
        function, arguments = self.stack[-2:]
        if not isinstance(arguments, tuple) or not callable(function):
            raise pickle.UnpicklingError("a call of nothing")
        # What is copied counts: a pickle names a long list anew with two bytes.
        self._budget.spend(NEW_TENSOR + len(arguments))
        self._budget.spend(sum(len(one) for one in arguments if isinstance(one, list | tuple | dict)))
        if function in (OrderedDict, torch.Size) and not all(isinstance(one, list | tuple) for one in arguments):
            raise pickle.UnpicklingError(f"{function.__name__} of what is no list")  # a tensor has millions of rows
        if function is OrderedDict:  # of pairs, as Python 2 wrote it
            arguments = ([(key, value) for key, value in arguments[0]],) if arguments else ()
            self._check_keys([key for pairs in arguments for key, _ in pairs])
        self.stack[-2:] = [function(*arguments)]

    def _new(self) -> None:
        kind, _ = self.stack[-2:]
        if not isinstance(kind, type) or not issubclass(kind, OrderedDict | _Ignored | ScriptModule):
            raise pickle.UnpicklingError("an object of what is no class")
        self.stack[-2:] = [kind()]

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ScriptModule):
            if isinstance(state, dict):
                self._budget.spend(len(state))
                target.update(state)
        elif not isinstance(target, OrderedDict | _Ignored):  # of these the state says nothing about tensors
            raise pickle.UnpicklingError("a state of what has none")

    def _check_keys(self, keys: Sequence[Any]) -> None:
        """What hashes a key walks through all that is in it; numbers can be chosen to have one hash."""
        for key in keys:
            if not isinstance(key, str):
                nested = isinstance(key, tuple) and any(isinstance(one, tuple) for one in key)
                if nested:
                    raise pickle.UnpicklingError("a key that holds tuples")
                numbers = (one for one in (key if isinstance(key, tuple) else (key,)) if isinstance(one, int))
                if any(one.bit_length() > LARGEST_KEY for one in numbers):
                    raise pickle.UnpicklingError(f"a key that is a number of more than {LARGEST_KEY} bits")
                self._budget.spend(OTHER_KEY + (len(key) if isinstance(key, tuple) else 0))

    def _check_filled(self, target: Any, kind: type) -> None:
        if not isinstance(target, kind | _Ignored):
            raise pickle.UnpicklingError(f"{type(target).__name__} is filled as if it were a {kind.__name__}")

    def _append(self) -> None:
        self._check_filled(self.stack[-2], list)
        self.load_append()

    def _appends(self) -> None:
        self._check_filled(self.metastack[-1][-1], list)
        self.load_appends()

    def _set_item(self) -> None:
        self._check_filled(self.stack[-3], dict)
        self._check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._check_filled(self.metastack[-1][-1], dict)
        self._check_keys(self.stack[::2])
        self.load_setitems()

    def _dict(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_dict()


_REFUSED = (
    *(
        pickle.EMPTY_SET,
        pickle.ADDITEMS,
        pickle.FROZENSET,
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
    ),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
)
_OWN: dict[bytes, Callable[[Any], None]] = {
    pickle.REDUCE: TensorUnpickler._call,
    pickle.NEWOBJ: TensorUnpickler._new,
    pickle.BUILD: TensorUnpickler._build,
    pickle.APPEND: TensorUnpickler._append,
    pickle.APPENDS: TensorUnpickler._appends,
    pickle.SETITEM: TensorUnpickler._set_item,
    pickle.SETITEMS: TensorUnpickler._set_items,
    pickle.DICT: TensorUnpickler._dict,
}


def _counted(operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def count_and_do(unpickler: TensorUnpickler) -> None:
        unpickler._budget.spend(1)
        operation(unpickler)

    return count_and_do


TensorUnpickler.dispatch = {
    code: _counted(_OWN.get(bytes([code]), operation))
    for code, operation in _PythonUnpickler.dispatch.items()
    if bytes([code]) not in _REFUSED
}
