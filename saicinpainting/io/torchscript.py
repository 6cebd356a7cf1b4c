"""The weights inside a TorchScript archive, read without running its program."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from saicinpainting.io.unpickling import StateDict, TensorUnpickler

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
}


class _Module:
    """A module of the archive: its attributes, without its code."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Unpickler(TensorUnpickler):
    def __init__(self, data: bytes, reader: Any) -> None:
        super().__init__(io.BytesIO(data))
        self._reader = reader

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", its type, the record's name, the device, the number of elements)."""
        _, dtype, key, _, elements = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(elements, int):
            raise ValueError(f"an unknown storage {pid!r}")
        record = f"data/{key}"
        if self._reader.get_record_size(record) < elements * dtype.itemsize:
            raise ValueError(f"{record} is shorter than {elements} elements")
        storage = self._reader.get_storage_from_record(record, elements * dtype.itemsize, torch.uint8)
        return torch.storage.TypedStorage(wrap_storage=storage.untyped_storage(), dtype=dtype, _internal=True)


def read_torchscript(path: Path) -> StateDict:
    """Names and tensors as the archive's modules have them, such as `model.generator.model.1.ffc.convl2l.weight`.

    Nothing but tensors and containers is made; errors of damaged archives are those of pickle and torch.
    """
    reader = torch._C.PyTorchFileReader(str(path))
    root = _Unpickler(reader.get_record("data.pkl"), reader).load()
    return dict(_tensors(root, ""))


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if not isinstance(module, _Module):
        return
    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.")
