"""Photographs for training in one file of limited size, for a machine that the packages cannot be had on.

Photographs instead of tiles: tiles overlap, and are cut from these where they are needed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import webdataset

from saicinpainting.data.preparation.extraction import extract
from saicinpainting.data.preparation.lama_small import SOURCES, shrink
from saicinpainting.data.preparation.photographs import Found, Photograph
from saicinpainting.io.files import write_whole
from saicinpainting.io.images import read_image
from saicinpainting.utils import InputError

STEPS = ((1100, 95), (1100, 90), (1100, 85), (960, 85), (800, 80), (640, 75), (480, 70))
"""Shorter side and JPEG quality of packed photographs, from the best to the smallest."""


def pack(found: Sequence[Found], file: Path, *, limit_mb: float) -> str:
    """Write a tar of the photographs for training and validation that is at most `limit_mb` (10⁶ bytes) large.

    They are resized and compressed no more than the limit asks for. Held-out photographs stay out.

    Returns:
        What was packed.

    Raises:
        InputError: they are too large at the lowest quality, too.
    """
    chosen = [one for one in found if one.photograph.role != "held_out"]
    for side, quality in STEPS:
        content = _tar(chosen, side, quality)
        if len(content) <= limit_mb * 1e6:
            write_whole(file, content)
            size = f"{len(content) / 1e6:.1f} MB"
            return f"{len(chosen)} photographs, {size}: shorter side {side}, JPEG quality {quality}"
    raise InputError(f"{len(chosen)} photographs do not fit into --limit-mb {limit_mb:g}, however small; allow more")


def unpack(file: Path, folder: Path) -> list[Found]:
    """The photographs of a file that `pack` wrote, unpacked into `folder`."""
    if not file.is_file():
        raise InputError(f"--packed {file}: no such file; --pack writes it on a machine that has the packages")
    extract(file, folder, strip=0)
    try:
        rows = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--packed {file}: no {SOURCES} in it; it was not written by --pack") from error
    found = []
    for row in rows:
        version, digest = row.pop("version"), row.pop("sha256")
        photograph = Photograph(kind="packed", **row)
        found.append(Found(photograph, folder / f"{_key(photograph)}.jpg", version, digest))
    return found


def _key(photograph: Photograph) -> str:
    return f"{photograph.role}/{photograph.name}"


def _tar(chosen: Sequence[Found], side: int, quality: int) -> bytes:
    file = io.BytesIO()
    with webdataset.TarWriter(file, user="", group="", mode=0o644, mtime=0) as tar:
        rows = json.dumps([one.describe() for one in chosen], indent=1, ensure_ascii=False)
        tar.write({"__key__": Path(SOURCES).stem, "json": rows.encode()})
        for one in chosen:
            jpeg = io.BytesIO()
            shrink(read_image(one.path), side).save(jpeg, "jpeg", quality=quality)
            tar.write({"__key__": _key(one.photograph), "jpg": jpeg.getvalue()})
    return file.getvalue()
