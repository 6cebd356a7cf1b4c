"""What the results in a folder are of: the settings, and each one's image and mask."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from saicinpainting.io.download import digest_of_input
from saicinpainting.io.files import append, write_whole
from saicinpainting.utils import InputError

RECORD = ".predicted.json"
INPUTS = ".predicted.jsonl"
Pair = tuple[str, str]


def inputs_digest(pair: Pair, digest_of_file: Callable[[str], str] = digest_of_input) -> str:
    """Of the contents of an image and its mask."""
    return hashlib.sha256(" ".join(map(digest_of_file, pair)).encode()).hexdigest()


def claim_results(
    outdir: Path, pairs: Mapping[Path, Pair], made_by: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Make `outdir` a folder of results of `made_by`, which are to be made of `pairs`: image and mask, by the result.

    `.predicted.json` says what made the results. `.predicted.jsonl` has a line each: a digest of its image and mask.
    A digest each, and not one of the data set, so that images may be added; of contents, not times, so that folders may
    be copied and moved. It takes reading the images of the results that are there, which is little beside filling them.

    What was not made by this, or of these images and masks, is an error; with `overwrite` it is removed before the new
    record is written, so that it counts as current at no time, whenever a start is interrupted.
    """
    record, known = outdir / RECORD, _read_inputs(outdir)
    there = [file for file in pairs if file.is_file()]
    other = difference(record, made_by) if record.is_file() else "their origin is unknown"
    if other:
        stale, reason = there, f"results of another checkpoint or setting ({other})"
        # Those of another ending or of images that are gone have the same record.
        listed = (outdir / name for name in known if outdir / name not in pairs)
        found = [*stale, *(file for file in listed if file.is_file())]
        known = {}
    else:
        digest_of_file = functools.cache(digest_of_input)  # an image may have many masks
        checked = tqdm(there, desc="check", unit="image", leave=False)
        stale = [
            file for file in checked if known.get(_name(outdir, file)) != inputs_digest(pairs[file], digest_of_file)
        ]
        found, reason = stale, "results of other images, masks or settings than there are now"
    if found and not overwrite:
        some = ", ".join(file.name for file in found[:3])
        raise InputError(
            f"{outdir} holds {len(found)} {reason}, such as {some}; choose another outdir, remove them, or set "
            "existing=overwrite to make them anew"
        )
    for file in stale:
        file.unlink()
    lines = (_line(name, digest) for name, digest in known.items())
    write_whole(outdir / INPUTS, "".join(lines))
    write_whole(record, json.dumps(made_by, indent=1))


def add_inputs(outdir: Path, result: Path, digest: str) -> None:
    """Say what a result is of, before it is written: so one that is there has its line, whatever is interrupted."""
    append(outdir / INPUTS, _line(_name(outdir, result), digest))


def difference(record: Path, made_by: Mapping[str, Any]) -> str | None:
    """In which key the JSON file `record` says something else than `made_by`; None: in none, or there is no file."""
    if not record.is_file():
        return None
    known = json.loads(record.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(made_by))
    changed = [key for key in wanted if known.get(key) != wanted[key]]
    return f"{changed[0]}: {known.get(changed[0])}, now {wanted[changed[0]]}" if changed else None


def _read_inputs(outdir: Path) -> dict[str, str]:
    """Digests by the result's name; of results that were made twice the later one."""
    file = outdir / INPUTS
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else [""]
    return dict(json.loads(line) for line in lines[:-1])  # what follows the last line break is half a line at most


def _name(outdir: Path, result: Path) -> str:
    return result.relative_to(outdir).as_posix()


def _line(name: str, digest: str) -> str:
    return json.dumps([name, digest]) + "\n"
