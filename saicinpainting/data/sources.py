"""Where training images come from: encoded files by number, and their names for messages."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from saicinpainting.data.sampler import Mixture, Shuffler
from saicinpainting.io.files import read_names
from saicinpainting.io.folders import IMAGE_SUFFIXES, list_files
from saicinpainting.utils import InputError

LABEL_SUFFIX = ".png"
WHERE = "data.train"  # the config section of the training set
MASK, SEGM = "mask", "segm"  # the labels that a training set can use
PathLike = str | os.PathLike[str]


class SourceError(InputError):
    """The source itself fails, so that no other image could take an image's place."""


class ImageSource(ABC):
    """Encoded images by number, and their labels: maps of an image's size in files of their own.

    Loader workers each have a copy.

    Attributes:
        labels: which labels every image comes with, such as `MASK` and `SEGM`.
    """

    labels: tuple[str, ...] = ()

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

    def read_label(self, index: int, label: str) -> bytes:
        """The whole file of a label, one of `labels`, of image `index`; raises as `read` does."""
        raise NotImplementedError

    def shuffler(self) -> Shuffler | None:
        """What permutes a pass over the images; None: any image may follow any other."""
        return None

    def mixture(self) -> Mixture | None:
        """What draws the images by shares of parts; None: a pass has each image once."""
        return None

    def near(self, index: int) -> range:
        """The images, `index` among them, that are read without opening another shard; all, if there are none.

        One of these takes the place of an image that cannot be used.
        """
        return range(len(self))


class PathList(Sequence[str]):
    """Paths in one buffer, which forked workers share.

    Of a list of strings each would come to have a copy: reading a Python string writes its reference count.
    """

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
    """The images under `indir`, nested folders too, or those of them that a list names.

    Args:
        indir: a folder or several; a mapping draws from each folder by its share; None takes the folder of `file_list`.
        file_list: a text file with a path a line. Paths count from the first folder of `indir` that has the file.
            Empty lines and lines that begin with # are skipped.
        labels: folders of label files, by label. They lie as the images do under `indir`: `a/b.jpg` has `a/b.png`.
    """

    def __init__(
        self,
        indir: PathLike | Sequence[PathLike] | Mapping[str, float] | None,
        *,
        file_list: PathLike | None = None,
        labels: Mapping[str, PathLike] | None = None,
    ) -> None:
        folders = [] if indir is None else folders_of(indir)
        self._mixture: Mixture | None = None
        # One list over all folders, so that a pass and the masks' ramps run over all of them.
        if file_list is not None:
            if isinstance(indir, Mapping):
                raise InputError(f"{WHERE}.file_list: shares of {WHERE}.indir draw from whole folders; leave one out")
            self.files = PathList(_listed(file_list, folders))
        else:
            found = [_training_images(folder) for folder in folders]
            self.files = PathList(file for each in found for file in each)
            if isinstance(indir, Mapping):
                self._mixture = Mixture([len(each) for each in found], _shares(indir))
        self._labels = {label: self._label_files(label, folder, folders) for label, folder in (labels or {}).items()}
        self.labels = tuple(self._labels)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def mixture(self) -> Mixture | None:
        return self._mixture

    def near(self, index: int) -> range:
        """Of the same folder, where folders have shares."""
        if self._mixture is None:
            return range(len(self))
        first = self._mixture.first
        part = int(np.searchsorted(first, index, side="right")) - 1
        return range(int(first[part]), int(first[part + 1]))

    def read(self, index: int) -> bytes:
        return Path(self.files[index]).read_bytes()

    def read_label(self, index: int, label: str) -> bytes:
        return Path(self._labels[label][index]).read_bytes()

    def _label_files(self, label: str, folder: PathLike, roots: Sequence[PathLike]) -> PathList:
        """The label file of each image: in `folder`, where the image lies in one of `roots`."""
        if not os.path.isdir(folder):
            raise InputError(f"{WHERE}.{label}_indir: no folder {folder}")
        found = []
        for file in self.files:
            path = os.path.join(folder, os.path.splitext(_relative(file, roots))[0] + LABEL_SUFFIX)
            if not os.path.isfile(path):
                raise InputError(f"{WHERE}.{label}_indir: {file} has no {path}; every image needs one")
            found.append(path)
        return PathList(found)


def _relative(file: str, folders: Sequence[PathLike]) -> str:
    """The path of `file` in the folder that it lies in; its name alone where it lies in none."""
    for folder in folders:
        relative = os.path.relpath(file, folder)
        if not relative.startswith(os.pardir + os.sep):
            return relative
    return os.path.basename(file)


def folders_of(indir: PathLike | Iterable[PathLike]) -> list[PathLike]:
    """`indir` of a config, one folder or several, or their shares, as a list."""
    return [indir] if isinstance(indir, (str, os.PathLike)) else list(indir)


def _shares(indir: Mapping[str, float]) -> list[float]:
    for folder, share in indir.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < float("inf"):
            raise InputError(f"{WHERE}.indir: the share of {folder}: expected a number above 0, got {share!r}")
    return list(indir.values())


def _training_images(folder: PathLike) -> list[str]:
    key = f"{WHERE}.indir"
    if not os.path.isdir(folder):
        raise InputError(f"{key}: no folder {folder}; set {key} or location.data_root_dir")
    files = [f for f in list_files(folder) if f.lower().endswith(IMAGE_SUFFIXES)]
    if not files:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"{key}: no image ({endings}) under {folder}; put the training images there")
    return files


def _listed(file_list: PathLike, folders: Sequence[PathLike]) -> list[str]:
    key = f"{WHERE}.file_list"
    try:
        lines = read_names(file_list).splitlines()
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
        start = f"{WHERE}.indir ({', '.join(map(str, folders))})" if folders else f"the list's own folder, {roots[0]}"
        raise InputError(
            f"{key}: {len(missing)} of {len(files)} files of {file_list} do not exist: {some}; paths count from {start}"
        )
    return files
