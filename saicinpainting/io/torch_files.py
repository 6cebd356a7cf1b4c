"""The files of `torch.save` and `torch.jit.save`, read without torch's own readers, which differ between versions.

Those of some versions believe a file's word about the sizes of its parts.
"""

from __future__ import annotations

import io
import zipfile
from typing import IO, Any, cast

import torch

from saicinpainting.io.archives import open_zip
from saicinpainting.io.budgets import BudgetError, check_bytes
from saicinpainting.io.unpickling import TensorUnpickler, pickle_budget

DOS_FOLDER = 0x10
"""Bit of an archive entry's attributes."""
ENCRYPTED = 1
"""Bit of its flags."""
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the first two pickles of a file hold that is no zip archive: torch before 1.6 wrote it."""


class NoCheckpointError(ValueError):
    """A file of torch's that is sound, and something else than a checkpoint."""


def open_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """A zip archive of torch's; `ZipFile` compares what is read with its checksum.

    Raises:
        ValueError, zipfile.BadZipFile and what else a damaged directory leads to.
    """
    archive = open_zip(file)
    size = file.seek(0, 2)
    check_bytes(sum(entry.file_size for entry in archive.infolist()), size)
    for entry in archive.infolist():
        # torch would take what is marked as a folder for read, and leave its tensor as the memory happens to be.
        plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & ENCRYPTED
        if entry.external_attr & DOS_FOLDER or not plain:
            raise zipfile.BadZipFile(f"{entry.filename} in it is damaged")
    return archive


def read_archive(archive: zipfile.ZipFile) -> Any:
    """What a zip archive of torch's holds; of TorchScript `state_dict`, its modules' attributes as nested dicts."""
    names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or any("serialized_exported_program" in name for name in names):
        raise NoCheckpointError(
            "a program of torch.export, for torch.export.load or AOTInductor in an application; give the checkpoint "
            "that it was exported from"
        )
    folders = [name.partition("/")[0] for name in names if name.partition("/")[2] == "data.pkl"]
    if len(folders) != 1:
        raise ValueError("no data.pkl in it")
    folder = folders[0]
    if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("its numbers are of another byte order")

    def make_storage(dtype: torch.dtype, key: str, elements: int) -> torch.Tensor:
        entry = archive.getinfo(f"{folder}/data/{key}")
        if entry.file_size != elements * dtype.itemsize:
            raise ValueError(f"data/{key} has {entry.file_size} bytes, expected {elements} elements of {dtype}")
        with archive.open(entry) as file:
            return _read_storage(file, dtype, elements)

    scripted = "constants.pkl" in inner or any(name.startswith("code/") for name in inner)
    content = io.BytesIO(archive.read(f"{folder}/data.pkl"))
    value = TensorUnpickler(content, make_storage, scripted=scripted).load()
    return {"state_dict": value} if scripted else value


def read_legacy(file: IO[bytes], size: int) -> Any:
    """What a file of torch before 1.6 holds, `size` bytes: pickles, then the storages one after another."""
    storages: dict[str, torch.Tensor] = {}
    declared, budget = 0, pickle_budget()

    def make_storage(dtype: torch.dtype, key: str, elements: int) -> torch.Tensor:
        nonlocal declared
        declared += elements * dtype.itemsize
        if declared > size:
            raise BudgetError(f"it claims {declared} bytes and has {size}")
        storages[key] = torch.empty(elements, dtype=dtype)
        return storages[key]

    def unpickle() -> Any:
        return TensorUnpickler(file, make_storage, budget=budget).load()

    if unpickle() != LEGACY_MAGIC or unpickle() != LEGACY_PROTOCOL:
        raise ValueError("not what torch.save writes")
    unpickle()  # the machine's byte order, which nothing but "little" ever was
    value = unpickle()
    keys = unpickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != storages.keys():
        raise ValueError("its storages are others than its pickle names")
    if len(keys) != len(storages):
        raise ValueError("its storages are others than its pickle names")
    for key in keys:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.numel():
            raise ValueError(f"storage {key} has another size than its pickle says")
        _fill(storage, file)
    return value


def _read_storage(file: IO[bytes], dtype: torch.dtype, elements: int) -> torch.Tensor:
    storage = torch.empty(elements, dtype=dtype)
    _fill(storage, file)
    if file.read(1):
        raise ValueError("more bytes than its elements have")
    return storage


def _fill(storage: torch.Tensor, file: IO[bytes]) -> None:
    # A tensor's bytes as memory that files read into; numpy has no bfloat16.
    left = memoryview(cast(Any, storage.view(torch.uint8).numpy()))
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it is cut off")
        left = left[count:]
