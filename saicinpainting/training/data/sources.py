"""Where training images come from: encoded files by number, and their names for messages."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

from saicinpainting.evaluation.data import list_files
from saicinpainting.utils import InputError

TRAIN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
WHERE = "data.train"  # the config section of the training set
PathLike = str | os.PathLike[str]


class ImageSource(ABC):
    """Encoded images by number; loader workers each have a copy."""

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
        """


class FolderSource(ImageSource):
    """The images under `indir`, a folder or several, nested folders too."""

    def __init__(self, indir: PathLike | Sequence[PathLike]) -> None:
        # One list over all folders, because the masks' ramps count the samples of all.
        self.files = [file for folder in folders_of(indir) for file in _training_images(folder)]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> bytes:
        with open(self.files[index], "rb", buffering=0) as file:
            return file.read()


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
