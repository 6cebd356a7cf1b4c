"""Where training images come from: encoded files by number, and their names for messages."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from saicinpainting.data.sampler import Shuffler
from saicinpainting.io.folders import list_files
from saicinpainting.utils import InputError

TRAIN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
COMPANION_SUFFIX = ".png"
WHERE = "data.train"  # the config section of the training set
MASK, SEGM = "mask", "segm"  # what sources call their companions
PathLike = str | os.PathLike[str]


class SourceError(InputError):
    """The source itself fails, so that no other image could take an image's place."""


class ImageSource(ABC):
    """Encoded images by number; loader workers each have a copy.

    `companions`: the names of the label files that every image comes with, `MASK` and `SEGM` among them.
    """

    companions: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What the user calls image `index`: its path."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The whole file of image `index`.

        Raises:
            OSError: it cannot be read.
            SourceError: others could not be read either.
        """

    @abstractmethod
    def read_companion(self, index: int, companion: str) -> bytes:
        """The label file of image `index`; raises as `read` does."""

    def shuffler(self) -> Shuffler | None:
        """What permutes a pass over the images; None: any image may follow any other."""
        return None

    def near(self, index: int) -> range:
        """The images, `index` among them, that are read without opening anything else."""
        return range(len(self))


class PathList(Sequence[str]):
    """Paths in one buffer. A list's strings count their uses, so that forked workers each come to copy all of them."""

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        first = int(self._ends[numbers - 1]) if numbers else 0
        return os.fsdecode(self._bytes[first : int(self._ends[numbers])])


class FolderSource(ImageSource):
    """The images under `indir`, a folder or several, nested folders too.

    Args:
        indir: the folders.
        file_list: a text file with a path a line, which is looked for under `indir`, or beside the list without one.
            Empty lines and those that begin with # do not count.
        companions: folders of label files by the name of the companion. They lie as the images do under `indir`:
            `a/b.jpg` has the label `a/b.png`.
    """

    def __init__(
        self,
        indir: PathLike | Sequence[PathLike] | None,
        *,
        file_list: PathLike | None = None,
        companions: Mapping[str, PathLike] | None = None,
    ) -> None:
        folders = [] if indir is None else folders_of(indir)
        # One list over all folders, because the masks' ramps count the samples of all.
        if file_list is not None:
            self.files = PathList(_listed(file_list, folders))
        else:
            self.files = PathList(file for folder in folders for file in _training_images(folder))
        self._labels = {name: self._pair(folders, folder, name) for name, folder in (companions or {}).items()}
        self.companions = tuple(self._labels)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> bytes:
        return Path(self.files[index]).read_bytes()

    def read_companion(self, index: int, companion: str) -> bytes:
        return Path(self._labels[companion][index]).read_bytes()

    def _pair(self, folders: Sequence[PathLike], labels: PathLike, name: str) -> PathList:
        if not os.path.isdir(labels):
            raise InputError(f"{WHERE}.{name}_indir: no folder {labels}")
        paired = []
        for file in self.files:
            relative = _relative(file, folders)
            label = os.path.join(labels, os.path.splitext(relative)[0] + COMPANION_SUFFIX)
            if not os.path.isfile(label):
                raise InputError(f"{WHERE}.{name}_indir: {file} has no {label}; every image needs one")
            paired.append(label)
        return PathList(paired)


def _relative(file: str, folders: Sequence[PathLike]) -> str:
    """The path of `file` in the folder that it lies in; its name alone where it lies in none."""
    for folder in folders:
        relative = os.path.relpath(file, folder)
        if not relative.startswith(os.pardir + os.sep):
            return relative
    return os.path.basename(file)


def folders_of(indir: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """`indir` of a config, one folder or several, as a list."""
    return [indir] if isinstance(indir, (str, os.PathLike)) else list(indir)


def _training_images(folder: PathLike) -> list[str]:
    key = f"{WHERE}.indir"
    if not os.path.isdir(folder):
        raise InputError(f"{key}: no folder {folder}; set {key} or location.data_root_dir")
    files = [f for f in list_files(folder) if f.lower().endswith(TRAIN_SUFFIXES)]
    if not files:
        endings = ", ".join(TRAIN_SUFFIXES)
        raise InputError(f"{key}: no image ({endings}) under {folder}; put the training images there")
    return files


def _listed(file_list: PathLike, folders: Sequence[PathLike]) -> list[str]:
    key = f"{WHERE}.file_list"
    try:
        lines = os.fsdecode(Path(file_list).read_bytes()).splitlines()
    except OSError as error:
        raise InputError(f"{key}: cannot read {file_list}: {error}; expected a text file with a path a line") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{key}: {file_list} names no file; expected a path a line")
    roots = list(folders) or [Path(file_list).parent]
    files, missing = [], []
    for name in dict.fromkeys(names):  # a path that is there twice is one image
        found = next((path for root in roots if os.path.isfile(path := os.path.join(root, name))), None)
        files.append(found or "")
        if found is None:
            missing.append(name)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{key}: {len(missing)} of {len(files)} files of {file_list} do not exist: {some}; paths count from "
            f"{WHERE}.indir ({', '.join(map(str, roots))})"
        )
    return files
