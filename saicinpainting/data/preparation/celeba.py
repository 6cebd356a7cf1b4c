"""CelebA-HQ (Karras et al. 2018) at 256 px: 28,000 images for training, 2,000 for evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from PIL import Image
from tqdm import tqdm

from saicinpainting.data.preparation.steps import Archive, Preparation, draw
from saicinpainting.data.verification import upright_size
from saicinpainting.io.connection import without_secrets
from saicinpainting.io.files import link_or_copy, whole
from saicinpainting.io.folders import images_in
from saicinpainting.io.images import read_image
from saicinpainting.masks.mask_sets import describe_images
from saicinpainting.utils import InputError

SIZE = 256
ARCHIVE_BYTES = 3_000_000_000  # an estimate for disk needs: 30,000 images of 100 kB
EVAL_SETS = tuple(f"random_{kind}_256" for kind in ("thick", "thin", "medium"))
VAL_MASKS = "random_thick_256"


@dataclass(kw_only=True)
class CelebaHQ(Preparation):
    """`train_256/`, `original_val_256/`, and the sets drawn from the latter: `val_256/` and `evaluation/`.

    Checkpoints are judged by the images of the final evaluation, as in the official scripts.

    Args:
        source: a folder of the images, an archive of them, or the address of one. The data set has no address that
            would last; the official scripts expect `data256x256.zip`.
        val_images: images held out of training, drawn with `seed`; all evaluation sets are drawn from them.
    """

    source: str
    val_images: int = 2000
    eval_sets: Sequence[str] = EVAL_SETS

    def describe(self) -> str:
        if Path(self.source).is_dir():
            lines = [f"{self.source}: a folder, which stays as it is; its images of 256 px are linked where possible"]
        else:
            lines = [
                f"{without_secrets(self.source)} -> original/",
                f"disk: about {ARCHIVE_BYTES / 1e9:.0f} GB for 30,000 images of 256 px, as much again for an archive",
            ]
        lines += [
            f"train_256/: all images but {self.val_images}, which are drawn with seed {self.seed}",
            f"original_val_256/: these {self.val_images}",
            f"val_256/: drawn from original_val_256/; {VAL_MASKS}",
            f"evaluation/: drawn from original_val_256/; {', '.join(self.eval_sets) or 'no set'}",
        ]
        return "\n".join(lines)

    def run_steps(self) -> None:
        original = self._originals()
        names = images_in(original)
        (held_out,) = draw(names, self.seed, self.val_images)
        training = sorted(set(names) - set(held_out))
        for folder, chosen in (("train_256", training), ("original_val_256", held_out)):
            settings = {"images": describe_images(original, chosen, self.root / folder), "size": SIZE}
            self.run_once(folder, settings, partial(_fill, self.root / folder, original, chosen))
        source = self.root / "original_val_256"
        sets = {"val_256": VAL_MASKS, **{f"evaluation/{recipe}": recipe for recipe in self.eval_sets}}
        for folder, recipe in sets.items():
            self.make_set(folder, recipe=recipe, source=source, names=images_in(source))

    def _originals(self) -> Path:
        """The folder of all images, unpacked where they come as an archive."""
        path = Path(self.source)
        if path.is_dir():
            return path
        if path.is_file():
            self.unpack_file(path, "original")
        elif "://" in self.source:
            name = PurePosixPath(urlsplit(self.source).path).name or "celeba.zip"
            self.fetch_and_unpack(Archive(name, self.source, ARCHIVE_BYTES), "original", strip=None)
        else:
            raise InputError(
                f"{self.source}: no such folder or file, and no address; where are the images of CelebA-HQ?"
            )
        return self.root / "original"


def _fill(folder: Path, original: Path, names: Sequence[str]) -> str:
    """Fill `folder` with the images `names` of `original` at 256 px.

    Those of 256 px are linked, or copied where that is impossible. Others are resized to a square, without keeping
    their proportions, and saved as PNG.

    Returns:
        What was made.
    """
    resized = 0
    for name in tqdm(names, desc=folder.name, unit="image"):
        fits = upright_size(str(original / name)) == (SIZE, SIZE)
        target = folder / (name if fits else f"{os.path.splitext(name)[0]}.png")
        resized += not fits
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as part:
            if fits:
                # What a killed start left may be a hard link to an original; copying into it would overwrite that.
                part.unlink(missing_ok=True)
                link_or_copy(original / name, part)
            else:
                read_image(original / name).resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(part, "png")
    return f"{len(names)} images" + (f", {resized} of them resized" if resized else "")
