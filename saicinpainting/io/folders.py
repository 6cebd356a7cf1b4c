"""Folders of files."""

from __future__ import annotations

import os
from pathlib import Path

from saicinpainting.utils import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """Every file under `folder`, linked folders too but nothing hidden, sorted; a missing folder is an `InputError`."""
    if not os.path.isdir(folder):
        raise InputError(f"no folder {os.fspath(folder)}; check the path")
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]  # walk does not enter the others
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def images_in(folder: str | os.PathLike[str], endings: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Images under `folder` as paths from there, sorted; endings in lower case stand for all spellings."""
    return [Path(f).relative_to(folder).as_posix() for f in list_files(folder) if f.lower().endswith(endings)]
