"""The files of a folder, whatever else lies in it."""

from __future__ import annotations

import heapq
import logging
import os
from pathlib import Path

from saicinpainting.io.files import REMEDIES
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
NAMED = 3
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".jp2"),
)


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """Every file under `folder`, linked folders too but nothing hidden, sorted.

    Each folder is listed once, however many links lead to it and wherever they lie: by its own name or else by the
    first link's. What is no file (a link to nowhere, a pipe, a device) and folders that may not be read are left out,
    and told.

    Raises:
        InputError: there is no such folder.
        OSError: a folder cannot be read for another reason than its rights.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise InputError(f"no folder {top}; check the path")
    found: list[str] = []
    left_out: list[str] = []
    links, seen = [top], set()
    while links:
        link = heapq.heappop(links)
        waiting = [(link, os.path.realpath(link))]
        while waiting:
            path, place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            try:
                entries = list(os.scandir(path))
            except PermissionError:
                if path == top:
                    raise
                left_out.append(path)
                continue
            for entry in entries:
                kind = "" if entry.name.startswith(".") else _kind(entry)
                if kind == "folder":
                    waiting.append((entry.path, os.path.join(place, entry.name)))
                elif kind == "linked folder":
                    heapq.heappush(links, entry.path)
                elif kind == "file":
                    found.append(entry.path)
                elif kind:
                    left_out.append(entry.path)
    if left_out:
        some = ", ".join(sorted(left_out)[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
        message = "%s: %d left out, since they are no files (but links to nowhere, pipes) or may not be read: %s"
        LOGGER.warning(message, top, len(left_out), some)
    return sorted(found)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "linked folder" if entry.is_symlink() else "folder"
        return "file" if entry.is_file() else "other"
    except OSError as error:
        if error.errno in REMEDIES:  # a disk that fails
            raise
        return "other"  # a link that leads to itself, or to where nothing may be read


def images_in(folder: str | os.PathLike[str], endings: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Images under `folder` as paths from there, sorted; endings in lower case stand for all spellings."""
    return [Path(f).relative_to(folder).as_posix() for f in list_files(folder) if f.lower().endswith(endings)]
