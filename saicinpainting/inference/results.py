"""The results in a folder: made by one checkpoint with one set of settings, each of the image and mask there now."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from saicinpainting.io.download import digest_of_input
from saicinpainting.io.provenance import Provenance
from saicinpainting.utils import InputError

Pair = tuple[str, str]


def inputs_digest(pair: Pair, digest_of_file: Callable[[str], str] = digest_of_input) -> str:
    """Digest of the contents of an image and its mask."""
    return hashlib.sha256(" ".join(map(digest_of_file, pair)).encode()).hexdigest()


def results_in(outdir: Path) -> Provenance:
    """Provenance of the results in `outdir`: their names to digests of image and mask.

    A digest of contents, so that folders may be copied and moved; one for each, so that images may be added.
    """
    return Provenance(outdir, ".predicted")


def claim_results(
    outdir: Path, pairs: Mapping[Path, Pair], made_by: Mapping[str, Any], *, overwrite: bool = False
) -> Provenance:
    """Make `outdir` a folder of results of `made_by`; pairs: image and mask of each result.

    Results of something else, or of other images and masks, are an error; with `overwrite` they are removed before the
    provenance is written, so that an interruption never makes them count as current.
    """
    results = results_in(outdir)
    there = [file for file in pairs if file.is_file()]
    other = "their origin is unknown" if results.settings is None else results.difference(made_by)
    if other:
        stale, reason = there, f"results of another checkpoint or setting ({other})"
        # Results of another ending, or of images that are gone, have the same provenance.
        listed = (outdir / name for name in results.done if outdir / name not in pairs)
        found = [*stale, *(file for file in listed if file.is_file())]
        results.done = {}
    else:
        digest_of_file = functools.cache(digest_of_input)  # an image may have many masks
        stale = [
            file
            for file in tqdm(there, desc="check", unit="image", leave=False)
            if results.done.get(file.relative_to(outdir).as_posix()) != inputs_digest(pairs[file], digest_of_file)
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
    results.begin(made_by)
    return results
