"""Places365 (Zhou et al. 2017) as the paper uses it: Standard or Challenge for training, sets of test images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from saicinpainting.data.preparation.steps import Archive, Preparation, draw
from saicinpainting.io.connection import without_secrets
from saicinpainting.io.download import Checksum
from saicinpainting.io.files import read_names
from saicinpainting.io.folders import images_in
from saicinpainting.utils import InputError

BASE = "http://data.csail.mit.edu/places/places365"
# Checksums as torchvision.datasets.Places365 has them, sizes as http://places2.csail.mit.edu/download.html states them.
SIZES_AND_MD5 = {
    "val_large": (2_100_000_000, "9b71c4993ad89d2d8bcbdc4aef38042f"),
    "test_large": (19_000_000_000, "41a4b6b724b1d2cd862fb3871ed59913"),
    "train_large_places365standard": (105_000_000_000, "67e186b496a84c929568076ed01a8aa1"),
    "train_large_places365challenge": (476_000_000_000, "605f18e68e510c82b958664ea134545f"),
}
EVAL_SETS = tuple(f"random_{kind}_{size}" for size in (512, 256) for kind in ("thick", "thin", "medium"))
VAL_MASKS = "random_thick_512"


@dataclass(kw_only=True)
class Places(Preparation):
    """`train/`, `val/`, `visual_test/` and `evaluation/`.

    Args:
        train: `standard`, `challenge`, or None for no training images.
        val_images: test images that checkpoints are judged by; visual_images: val images for pictures.
        eval_images: test images of the final evaluation, drawn with `seed` from those that are left.
        eval_list: a file that names them instead; the others are drawn from what it does not name.
        address: of a mirror; checksums: of its archives by name.
    """

    train: str | None = "standard"
    val_images: int = 2000
    visual_images: int = 100
    eval_images: int = 30000
    eval_list: Path | None = None
    eval_sets: Sequence[str] = EVAL_SETS
    address: str | None = None
    checksums: Mapping[str, Checksum] = field(default_factory=dict)

    def archives(self) -> dict[str, Archive]:
        """The archives by the folders that they are unpacked to; the small ones first."""
        names = {"original/val": "val_large", "original/test": "test_large"}
        if self.train is not None:
            names["train"] = f"train_large_places365{self.train}"
        made = {}
        for folder, name in names.items():
            size, md5 = SIZES_AND_MD5[name]
            archive = Archive(f"{name}.tar", f"{BASE}/{name}.tar", size, Checksum("md5", md5))
            made[folder] = archive.on_mirror(self.address, self.checksums)
        return made

    def describe(self) -> str:
        archives = self.archives()
        lines = [
            f"{without_secrets(archive.address)} ({archive.size / 1e9:,.0f} GB, {archive.checksum or 'no checksum'}) "
            f"-> {folder}/"
            for folder, archive in archives.items()
        ]
        sizes = [archive.size for archive in archives.values()]
        kept = sum(sizes) if self.keep_archives else max(sizes)
        lines += [
            f"disk: {sum(sizes) / 1e9:,.0f} GB of images, and {kept / 1e9:,.0f} GB for archives",
            f"val/: {self.val_images} test images; visual_test/: {self.visual_images} val images; {VAL_MASKS}",
            f"evaluation/: {self.eval_list or f'{self.eval_images} test images, seed {self.seed}'}; "
            f"{', '.join(self.eval_sets) or 'no set'}",
        ]
        return "\n".join(lines)

    def run_steps(self) -> None:
        archives = self.archives()
        train = archives.pop("train", None)
        for folder, archive in archives.items():
            self.fetch_and_unpack(archive, folder)
        self.make_sets()
        if train is not None:
            self.fetch_and_unpack(train, "train")

    def make_sets(self) -> None:
        """`val/`, `visual_test/` and `evaluation/` from the unpacked test and val images."""
        val, test = self.root / "original" / "val", self.root / "original" / "test"
        wanted = 0 if self.eval_list or not self.eval_sets else self.eval_images
        source, listed = named(self.eval_list, [test, val]) if self.eval_list else (test, [])
        # What a list names is for the final evaluation; no checkpoint may be judged by it.
        taken = {source / name for name in listed}
        judged, drawn = draw(_free(test, taken), self.seed, self.val_images, wanted)
        (shown,) = draw(_free(val, taken), self.seed, self.visual_images)
        self.make_set("val", recipe=VAL_MASKS, source=test, names=judged)
        self.make_set("visual_test", recipe=VAL_MASKS, source=val, names=shown)
        for recipe in self.eval_sets:
            self.make_set(f"evaluation/{recipe}", recipe=recipe, source=source, names=listed or drawn)


def _free(folder: Path, taken: Set[Path]) -> list[str]:
    return [name for name in images_in(folder) if folder / name not in taken]


def named(wanted: Path, folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """The images that a list names, with or without folders and endings, and the first of `folders` that has all."""
    try:
        lines = read_names(wanted).split()
    except OSError as error:
        raise InputError(f"--eval-list: cannot read {wanted}: {error}") from error
    stems = list(dict.fromkeys(map(_stem, lines)))
    if not stems:
        raise InputError(f"--eval-list: {wanted} names no image")
    present = {folder: {_stem(name): name for name in images_in(folder)} for folder in folders}
    best = max(folders, key=lambda folder: len(present[folder].keys() & set(stems)))
    missing = [stem for stem in stems if stem not in present[best]]
    if missing:
        raise InputError(
            f"--eval-list: {len(missing)} of {len(stems)} images of {wanted} are not in "
            f"{' or '.join(map(str, folders))}, first {missing[0]}"
        )
    return best, [present[best][stem] for stem in stems]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
