"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from saicinpainting.io.folders import IMAGE_SUFFIXES, list_files
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)


class NamedPair(NamedTuple):
    """Files of an image and its mask; name: of what is made of them, a path from the set's folder without an ending."""

    image: str
    mask: str
    name: str


class ImageFiles:
    """Image files by their paths without the ending."""

    def __init__(self, files: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        for file in files:
            if file.lower().endswith(IMAGE_SUFFIXES):
                self._by_stem.setdefault(os.path.splitext(file)[0], []).append(file)

    @property
    def stems(self) -> set[str]:
        return set(self._by_stem)

    def find(self, stem: str, suffix: str, key: str = "img_suffix") -> str | None:
        """The file `stem` + `suffix`, or else the only one with another ending; None if there is none.

        key: the setting that `suffix` is of, for errors.

        Raises:
            InputError: there are several.
        """
        wanted = stem + suffix
        found = self._by_stem.get(os.path.splitext(wanted)[0], [])
        if wanted in found or len(found) == 1:
            return wanted if wanted in found else found[0]
        if found:
            endings = " or ".join(os.path.splitext(file)[1] for file in found)
            raise InputError(f"{found[0]} and {found[1]}: either may be meant; set {key} to {endings}, or remove one")
        return None

    def without_twins(self, suffixes: Sequence[str]) -> list[str]:
        """One file of each name, sorted: the first of `suffixes` that it has, or else the first."""
        chosen = []
        for files in self._by_stem.values():
            preferred = (file for suffix in suffixes for file in files if file.endswith(suffix))
            chosen.append(next(preferred, files[0]))
        return sorted(chosen)


def pairs_beside(
    files: Sequence[str],
    folder: str,
    suffix: str,
    *,
    is_mask: Callable[[str], bool],
    image_stem: Callable[[str], str],
    pattern: str,
) -> list[NamedPair]:
    """Images and masks that lie in one folder, in the order of the masks.

    Args:
        files: of the folder.
        suffix: what images end with, where a name has several endings.
        is_mask, image_stem: of a file, whether its name is a mask's, and of which image.
        pattern: of the masks' names, for errors.
    """
    images = ImageFiles(files)
    masks = ImageFiles(filter(is_mask, files)).without_twins((".png", suffix))
    image_of = {mask: images.find(image_stem(mask), suffix) for mask in masks}
    # An image may itself be called NAME_mask.png; a mask NAME_mask_mask000.png tells.
    masks = [mask for mask in masks if mask not in image_of.values()]
    # Other endings count for images without masks of the usual ones, beside which they may be previews.
    usual = {None, *(image_of[mask] for mask in masks if mask.endswith((".png", suffix)))}
    masks = [mask for mask in masks if mask.endswith((".png", suffix)) or image_of[mask] not in usual]
    if not masks:
        raise InputError(
            f"{folder}: expected images NAME{suffix} with masks {pattern}, found no such mask but {describe(files)}; "
            "name the masks so"
        )
    for mask in masks:
        if image_of[mask] is None:
            raise InputError(
                f"{mask}: its image {image_stem(mask)}{suffix} is missing; add the image or remove the mask"
            )
    pairs = [NamedPair(str(image_of[mask]), mask, _name(mask, folder)) for mask in masks]
    warn_of_unmasked(set(filter(lambda file: not is_mask(file), images.without_twins((suffix,)))), pairs)
    return pairs


def pairs_with_masks(files: Sequence[str], folder: str, suffix: str, mask_path: str) -> list[NamedPair]:
    """Images of `files` with the mask `mask_path`, or with the masks of that folder; numbers in names count in order.

    In a folder masks are called as their image, `NAME.*` or `NAME_mask*.*`.
    """
    images = ImageFiles(files)
    real = os.path.realpath(mask_path)
    others = [file for file in images.without_twins((suffix,)) if os.path.realpath(file) != real]
    chosen = [file for file in others if not _is_mask_among(images.stems, file)]
    if os.path.isfile(mask_path):
        if masks := sorted(set(others).difference(chosen)):
            LOGGER.warning("%d files are taken for masks of others and left out: %s", len(masks), some(masks))
        pairs = [NamedPair(image, mask_path, _name(image, folder)) for image in chosen]
    elif os.path.isdir(mask_path):
        image_of = {_name(image, folder): image for image in chosen}
        masks = ImageFiles(list_files(mask_path)).without_twins((".png", suffix))
        found = [(_image_named(_name(mask, mask_path), image_of), mask) for mask in masks]
        pairs = [NamedPair(image, mask, _name(mask, mask_path)) for image, mask in found if image is not None]
    else:
        raise InputError(f"{mask_path}: no such mask, nor folder of masks; check the path")
    if not pairs:
        raise InputError(
            f"{mask_path}: expected masks NAME.* or NAME_mask*.* for images NAME.* of {folder}, found "
            f"{describe(list_files(mask_path))} for {describe(files)}"
            if os.path.isdir(mask_path)
            else f"{folder}: no image there for the mask {mask_path}, but {describe(files)}"
        )
    warn_of_unmasked(set(chosen), pairs)
    return sorted(pairs, key=lambda pair: _in_order(pair.name))


def _image_named(name: str, image_of: dict[str, str]) -> str | None:
    """The image of a mask of this name."""
    return image_of.get(name) or (image_of.get(name.rsplit("_mask", 1)[0]) if "_mask" in name else None)


def _is_mask_among(stems: set[str], file: str) -> bool:
    """Whether it is called NAME_mask, NAME_mask000 or such beside NAME; NAME_masked_ball is a name of its own."""
    stem, mark, number = os.path.splitext(file)[0].rpartition("_mask")
    return bool(mark) and os.sep not in number and not number[:1].isalpha() and stem in stems


def _name(file: str, folder: str) -> str:
    return os.path.splitext(os.path.relpath(file, folder))[0]


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def with_dot(suffix: str | None) -> str:
    """`.jpg` for `jpg`, since what images end with has a dot; `_inpainted.jpg` as it is; of None, `.png`."""
    suffix = ".png" if suffix is None else suffix
    return f".{suffix}" if suffix and "." not in suffix else suffix


def warn_of_unmasked(images: set[str], pairs: Sequence[NamedPair]) -> None:
    """Name images that are left out, for they have no mask."""
    unmasked = sorted(images.difference(pair.image for pair in pairs))
    if unmasked:
        LOGGER.warning("%d images have no mask and are left out: %s", len(unmasked), some(unmasked))


def describe(files: Iterable[str]) -> str:
    """The endings of files, for errors."""
    counts = Counter(Path(file).suffix or "no suffix" for file in files)
    return ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(4)) or "nothing"


def some(names: Sequence[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
