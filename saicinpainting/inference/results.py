"""The results in a folder: made by one checkpoint with one set of settings, each of the image and mask there now."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from saicinpainting.io.download import digest_of_input
from saicinpainting.io.provenance import Provenance
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
Pair = tuple[str, str]


def inputs_digest(pair: Pair, digest_of_file: Callable[[str], str] = digest_of_input) -> str:
    """Digest of the contents of an image and its mask."""
    return hashlib.sha256(" ".join(map(digest_of_file, pair)).encode()).hexdigest()


def results_in(outdir: Path, rank: int = 0) -> Provenance:
    """Provenance of the results in `outdir`: their names to digests of image and mask.

    A digest of contents, so that folders may be copied and moved; one for each, so that images may be added.
    """
    return Provenance(outdir, ".predicted", rank)


def claim_results(
    outdir: Path, pairs: Mapping[Path, Pair], made_by: Mapping[str, Any], *, overwrite: bool = False
) -> set[Path]:
    """Make `outdir` a folder of results of `made_by`; pairs: image and mask of each result.

    Returns the stale ones, to be made anew: those that this program made of something else, or of other images and
    masks. They stay there and are noted, so that no start takes them for current; the caller removes them all once it
    has something in their place. A file of another origin is an error, unless `overwrite` is on.
    """
    results = results_in(outdir)
    other = results.difference(made_by)
    digest_of_file = functools.cache(digest_of_input)  # an image may have many masks
    there = {file: file.relative_to(outdir).as_posix() for file in pairs if file.is_file()}
    unknown = [file for file, name in there.items() if name not in results.done]
    if unknown and not overwrite:
        some = ", ".join(file.name for file in unknown[:3])
        raise InputError(
            f"{outdir} holds {len(unknown)} files that are not known to be results of this program, such as {some}; "
            "choose another outdir, remove them, or set existing=overwrite to replace them"
        )
    if other:
        stale = there.keys() - unknown
        # Those of images that are not asked for stay, as results of something else.
        results.done = {name: None for name in results.done if (outdir / name).is_file()}
    else:
        stale = {
            file
            for file, name in tqdm(there.items(), desc="check", unit="image", leave=False)
            if name in results.done and results.done[name] != inputs_digest(pairs[file], digest_of_file)
        }
        results.done |= dict.fromkeys(map(there.__getitem__, stale))
    if stale and not overwrite:
        reason = f"another checkpoint or setting ({other})" if other else "other images or masks than there are now"
        LOGGER.warning("%s: %d results of %s are made anew", outdir, len(stale), reason)
    results.begin(made_by)
    return stale
