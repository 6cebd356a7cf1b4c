"""Rows of metrics kept on disk by what they were computed from, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from saicinpainting.metrics.base import ImageMetric
from saicinpainting.utils import InputError

Sample = Mapping[str, Any]
INPUTS = {"pred": "inpainted", "target": "image", "mask": "mask"}
"""The metrics' inputs by the samples' keys."""
WRITE_SECONDS = 2.0
BUSY_SECONDS = 60.0


class WithDigests(Dataset[dict[str, Any]]):
    """`dataset` with `digests`: of each input, hexadecimal, the same for equal values and sizes."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample = self.dataset[i]
        return {**sample, "digests": {name: _digest(sample[key]) for name, key in INPUTS.items()}}


def _digest(values: np.ndarray) -> str:
    digest = hashlib.blake2b(str((values.shape, values.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


class RowCache:
    """What metrics computed, in two files: of the originals alone, for every model, and of the predictions.

    Whatever is interrupted goes on with the images that are not in there. Use it as a context manager, so that the last
    rows are written.
    """

    def __init__(self, originals: str | Path, predictions: str | Path) -> None:
        self._originals, self._predictions = _RowFile(Path(originals)), _RowFile(Path(predictions))
        self.computed: dict[str, int] = {}
        """Images whose rows were not known, by metric and kind of row."""

    def __enter__(self) -> RowCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in (self._originals, self._predictions):
            file.close()

    def measured(
        self, metric: ImageMetric, name: str, images: Mapping[str, Tensor], digests: Mapping[str, Sequence[str]]
    ) -> Tensor:
        """Row `name` of a batch, as `metric.measured` gives it; digests: of each input, one an image."""
        row = metric.rows[name]
        kind = f"{metric.signature}/{row.kind or name}"
        of_images = zip(*(digests[input_] for input_ in row.inputs), strict=True)
        keys = ["/".join((kind, *parts)) for parts in of_images]
        file = self._predictions if "pred" in row.inputs else self._originals
        known = file.get(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            fresh = metric.measured(name, {input_: images[input_][missing] for input_ in row.inputs}).cpu()
            new = {keys[i]: values.numpy().ravel() for i, values in zip(missing, fresh, strict=True)}
            file.put(new)
            known |= new
            label = f"{type(metric).__name__}/{row.kind or name}/{'+'.join(row.inputs)}"
            self.computed[label] = self.computed.get(label, 0) + len(missing)
        rows = np.stack([known[key] for key in keys]).reshape(len(keys), *row.shape)
        return torch.from_numpy(rows)


class _RowFile:
    """A file of float32 arrays by key. Several processes may use it at once; a kill loses the last seconds at most."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: dict[str, np.ndarray] = {}
        self._written = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=BUSY_SECONDS)
            with self._file:
                self._file.execute("CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of the keys that are known."""
        marks = ",".join("?" * len(keys))
        try:
            found = self._file.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", list(keys)).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        known = {key: np.frombuffer(value, np.float32) for key, value in found}
        return known | {key: self._waiting[key] for key in keys if key in self._waiting}

    def put(self, rows: Mapping[str, np.ndarray]) -> None:
        self._waiting.update(rows)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def close(self) -> None:
        self._write()
        self._file.close()

    def _write(self) -> None:
        values = [(key, np.ascontiguousarray(row, np.float32).tobytes()) for key, row in self._waiting.items()]
        try:
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._waiting.clear()
        self._written = time.monotonic()

    def _failure(self, error: Exception) -> InputError:
        # Of a full or broken disk, rights and locks; other errors say that the file is no good.
        outside = isinstance(error, (OSError, sqlite3.OperationalError))
        remedy = "look after its disk" if outside else "delete the file to have them computed anew"
        return InputError(
            f"{self.path}: the rows of metrics cannot be read or written ({error}); {remedy}, or choose another folder"
        )
