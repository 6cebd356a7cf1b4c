"""Places365 (Zhou et al. 2017) as the paper uses it: Standard or Challenge for training, sets of test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from saicinpainting.data.preparation.sets import draw, make_set, named
from saicinpainting.data.preparation.steps import Archive, Steps
from saicinpainting.io.connection import without_secrets
from saicinpainting.io.download import Checksum
from saicinpainting.io.folders import images_in

BASE = "http://data.csail.mit.edu/places/places365"
# Checksums as torchvision.datasets.Places365 has them, sizes as http://places2.csail.mit.edu/download.html states them.
VAL = Archive(
    "val_large.tar", f"{BASE}/val_large.tar", 2_100_000_000, Checksum("md5", "9b71c4993ad89d2d8bcbdc4aef38042f")
)
TEST = Archive(
    "test_large.tar", f"{BASE}/test_large.tar", 19_000_000_000, Checksum("md5", "41a4b6b724b1d2cd862fb3871ed59913")
)
TRAIN = {
    "standard": Archive(
        "train_large_places365standard.tar",
        f"{BASE}/train_large_places365standard.tar",
        105_000_000_000,
        Checksum("md5", "67e186b496a84c929568076ed01a8aa1"),
    ),
    "challenge": Archive(
        "train_large_places365challenge.tar",
        f"{BASE}/train_large_places365challenge.tar",
        476_000_000_000,
        Checksum("md5", "605f18e68e510c82b958664ea134545f"),
    ),
}
EVAL_SETS = tuple(f"random_{kind}_{size}" for size in (512, 256) for kind in ("thick", "thin", "medium"))
VAL_MASKS = "random_thick_512"


@dataclass(frozen=True)
class PlacesPlan:
    """What to make.

    Args:
        train: `standard`, `challenge`, or None for no training images.
        val_images: test images that checkpoints are judged by; visual_images: val images for pictures.
        eval_images: test images of the final evaluation, drawn with `seed` from those that are left.
        eval_list: a file that names them instead; the others are drawn from what it does not name.
        eval_sets: configs of configs/data_gen.
        address: of a mirror; checksums: of its archives by name.
    """

    train: str | None = "standard"
    val_images: int = 2000
    visual_images: int = 100
    eval_images: int = 30000
    eval_list: Path | None = None
    eval_sets: Sequence[str] = EVAL_SETS
    seed: int = 0
    keep_archives: bool = False
    n_jobs: int = 1
    address: str | None = None
    checksums: Mapping[str, Checksum] = field(default_factory=dict)

    def archives(self) -> Iterator[tuple[str, Archive]]:
        """Where each archive is unpacked, and the archive; the small ones first."""
        yield "original/val", VAL.at(self.address, self.checksums)
        yield "original/test", TEST.at(self.address, self.checksums)
        if self.train is not None:
            yield "train", TRAIN[self.train].at(self.address, self.checksums)

    def describe(self) -> str:
        """What will be downloaded and made, with sizes."""
        lines = [
            f"{without_secrets(archive.address)} ({archive.size / 1e9:,.0f} GB, {archive.checksum or 'no checksum'}) "
            f"-> {folder}/"
            for folder, archive in self.archives()
        ]
        total = sum(archive.size for _, archive in self.archives())
        largest = max(archive.size for _, archive in self.archives())
        kept = total if self.keep_archives else largest
        chosen = self.eval_list or f"{self.eval_images} test images, seed {self.seed}"
        return "\n".join(
            [
                *lines,
                f"disk: {total / 1e9:,.0f} GB of images, and {kept / 1e9:,.0f} GB for archives",
                f"val/: {self.val_images} test images; visual_test/: {self.visual_images} val images; {VAL_MASKS}",
                f"evaluation/: {chosen}; {', '.join(self.eval_sets) or 'no set'}",
            ]
        )


def prepare_places(root: Path, plan: PlacesPlan, steps: Steps) -> None:
    """Make `train/`, `val/`, `visual_test/` and `evaluation/` under `root`."""
    archives = dict(plan.archives())
    train = archives.pop("train", None)
    for folder, archive in archives.items():
        steps.unpack(archive, folder, keep=plan.keep_archives)
    make_evaluation_sets(root, plan, steps)
    if train is not None:
        steps.unpack(train, "train", keep=plan.keep_archives)


def make_evaluation_sets(root: Path, plan: PlacesPlan, steps: Steps) -> None:
    """`val/`, `visual_test/` and `evaluation/` from the unpacked test and val images."""
    val, test = root / "original" / "val", root / "original" / "test"
    wanted = 0 if plan.eval_list or not plan.eval_sets else plan.eval_images
    source, listed = named(plan.eval_list, [test, val]) if plan.eval_list else (test, [])
    # What a list names is for the final evaluation; no checkpoint may be judged by it.
    taken = {source / name for name in listed}
    judged, drawn = draw(_free(test, taken), plan.seed, plan.val_images, wanted)
    (shown,) = draw(_free(val, taken), plan.seed, plan.visual_images)
    evaluated = listed or drawn
    settings = {"seed": plan.seed, "n_jobs": plan.n_jobs}
    make_set(steps, "val", recipe=VAL_MASKS, source=test, names=judged, **settings)
    make_set(steps, "visual_test", recipe=VAL_MASKS, source=val, names=shown, **settings)
    for recipe in plan.eval_sets:
        make_set(steps, f"evaluation/{recipe}", recipe=recipe, source=source, names=evaluated, **settings)


def _free(folder: Path, taken: Set[Path]) -> list[str]:
    return [name for name in images_in(folder) if folder / name not in taken]
