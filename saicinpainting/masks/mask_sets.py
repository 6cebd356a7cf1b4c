"""Evaluation sets: images resized and cropped around drawn holes, saved with their masks."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from saicinpainting.config import CONFIGS, published_config
from saicinpainting.io.download import digest_of
from saicinpainting.io.files import LONGEST_NAME, REMEDIES, disk_problem, map_in_processes
from saicinpainting.io.folders import IMAGE_SUFFIXES, images_in
from saicinpainting.io.images import LONGEST_SIDE, read_image, save_image
from saicinpainting.io.provenance import Provenance
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.masks.generators import MaskRandom
from saicinpainting.masks.mixed import MixedMaskGenerator
from saicinpainting.masks.segmentation import SegmentationMasks
from saicinpainting.utils import InputError, call_with_settings, check_whole, did_you_mean

RECIPES = CONFIGS / "data_gen"
ROUNDS = 10
"""How many times `variants_n` masks are drawn before an image counts as one without a fitting mask."""

Proposal = tuple[Image.Image, np.ndarray]
Box = tuple[int, int, int, int]
"""left, top, right, bottom"""


@dataclass(frozen=True, kw_only=True)
class Cropping:
    """How an image comes to the size of the set.

    The shorter side becomes `out_min_size`; smaller images are upscaled or dropped. With `out_square_crop` a
    square of that side is cut out that overlaps the share `crop_min_overlap` of the hole's extent.
    """

    out_min_size: int
    handle_small_mode: str = "drop"
    out_square_crop: bool = True
    crop_min_overlap: float = 1.0

    def __post_init__(self) -> None:
        if self.handle_small_mode not in ("drop", "upscale"):
            raise InputError(f"cropping.handle_small_mode: expected drop or upscale, got {self.handle_small_mode!r}")

    def resize(self, image: Image.Image, scale: int = 1) -> Image.Image:
        """Scaled, both sides are `scale` times as long, and no image is upscaled.

        An `InputError` for an image that is too small, or so thin that it would come to be too long.
        """
        shorter, least = min(image.size), scale * self.out_min_size
        if shorter < least and (self.handle_small_mode == "drop" or scale > 1):
            raise InputError(f"{image.width}x{image.height} pixels, below {least}")
        width, height = (scale * round(side * self.out_min_size / shorter) for side in image.size)
        if max(width, height) > LONGEST_SIDE:
            raise InputError(f"it would come to {width}x{height} pixels, {LONGEST_SIDE} is the most; cut it into parts")
        return image.resize((width, height), resample=Image.Resampling.BICUBIC)

    def box(self, mask: np.ndarray, rng: MaskRandom) -> Box:
        """What is cut out; mask: (H, W), with a hole."""
        if not self.out_square_crop:
            return (0, 0, mask.shape[1], mask.shape[0])
        return propose_random_square_crop(mask, min_overlap=self.crop_min_overlap, rng=rng)


def propose_random_square_crop(mask: np.ndarray, *, min_overlap: float, rng: MaskRandom) -> Box:
    """mask: (H, W) with a hole -> left, top, right, bottom of a square as large as the shorter side allows.

    It moves along the longer axis so that it meets the span of the hole there.
    """
    height, width = mask.shape
    wide = height < width
    side, length = min(mask.shape), max(mask.shape)
    hole = np.flatnonzero(mask.any(axis=0 if wide else 1))
    reach = hole[0] + (hole[-1] - hole[0]) * min_overlap
    first = max(0, min(length - side - 1, reach - side))
    last = max(first + 1, min(length - side, reach))
    start = int(rng.numpy.randint(int(first), int(last)))
    return (start, 0, start + side, side) if wide else (0, start, side, start + side)


class RandomMasks:
    """`generator_kind: random`: draws `variants_n` masks of a `MixedMaskGenerator` for an image."""

    def __init__(self, *, variants_n: int = 2, **mixed_settings: Any) -> None:
        self.variants_n = variants_n
        mixed = partial(MixedMaskGenerator, "mask_generator_kwargs")
        self.generator = call_with_settings(mixed, mixed_settings, where="mask_generator_kwargs")

    def prepare(self) -> None:
        """Nothing is needed."""

    def draw_for(self, image: Image.Image) -> Callable[[MaskRandom], list[np.ndarray]]:
        """A function that draws masks (H, W) of the image's size."""
        size = (image.height, image.width)
        return lambda rng: [self.generator.sample(size, rng) for _ in range(self.variants_n)]


DRAWERS: dict[str, Callable[..., RandomMasks | SegmentationMasks]] = {
    "random": RandomMasks,
    "segmentation": SegmentationMasks,
}


class MaskSetMaker:
    """Draws the images and masks of an evaluation set; the arguments are the keys of configs/data_gen.

    scale: makes a set of so many times the size, of the same crops with the same holes: they are drawn at the size of
    the recipe, then every pixel of a mask becomes scale² of them.
    """

    def __init__(
        self,
        *,
        generator_kind: str,
        mask_generator_kwargs: Mapping[str, Any],
        cropping: Mapping[str, Any],
        max_masks_per_image: int = 1,
        max_tamper_area: float = 1.0,
        scale: int = 1,
    ) -> None:
        check_whole("scale", scale, least=1)
        if generator_kind not in DRAWERS:
            raise InputError(
                f"generator_kind: unknown kind {generator_kind!r}; {did_you_mean(generator_kind, DRAWERS)}"
            )
        self.masks = call_with_settings(DRAWERS[generator_kind], mask_generator_kwargs, where="mask_generator_kwargs")
        self.cropping = call_with_settings(Cropping, cropping, where="cropping")
        self.max_masks_per_image, self.max_tamper_area = max_masks_per_image, max_tamper_area
        self.scale = scale

    def propose(self, image: Image.Image, rng: MaskRandom) -> list[Proposal]:
        """Up to `max_masks_per_image` pairs of an image and a mask (H, W); an `InputError` if none fits."""
        resized = self.cropping.resize(image)
        scaled = self.cropping.resize(image, self.scale) if self.scale > 1 else resized
        draw = self.masks.draw_for(resized)
        for _ in range(ROUNDS):
            masks = [mask for mask in draw(rng) if mask.any()]
            boxes = [self.cropping.box(mask, rng) for mask in masks]
            crops = [(box, mask[box[1] : box[3], box[0] : box[2]]) for box, mask in zip(boxes, masks, strict=True)]
            fitting = [c for c in crops if c[1].any() and c[1].mean() <= self.max_tamper_area]
            if fitting:
                count = min(len(fitting), self.max_masks_per_image)
                chosen = rng.numpy.choice(len(fitting), size=count, replace=False)
                return [self._scaled(scaled, *fitting[i]) for i in chosen]
        raise InputError(f"no mask of {ROUNDS * self.masks.variants_n} kept max_tamper_area, or none could be drawn")

    def _scaled(self, image: Image.Image, box: Box, mask: np.ndarray) -> Proposal:
        left, top, right, bottom = (self.scale * edge for edge in box)
        return image.crop((left, top, right, bottom)), mask.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


@dataclass(frozen=True)
class MaskSet:
    """What a set holds; skipped: why images gave no mask."""

    images: int
    masks: int
    skipped: list[str]

    def __str__(self) -> str:
        return f"{self.images} images, {self.masks} masks, {len(self.skipped)} images skipped"


def make_mask_set(
    config: Mapping[str, Any],
    indir: str | os.PathLike[str],
    outdir: str | os.PathLike[str],
    *,
    ext: str = "jpg",
    n_jobs: int = 1,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> MaskSet:
    """Write the evaluation set of `config` for every image under `indir` to the same folders under `outdir`.

    The result follows from the images, their names, `config` and `seed`, never from `n_jobs`. An interrupted set is
    resumed, from the same images only.

    Args:
        ext: ending of the images, several with commas, or `auto` for all kinds.
        names: these images alone, as paths from `indir`.

    Raises:
        InputError: a wrong config; no image; two images with one name; `outdir` holds something else.
    """
    indir, outdir = Path(indir), Path(outdir)
    maker = call_with_settings(MaskSetMaker, config, where="config")
    found = _find_images(indir, ext) if names is None else sorted(names)
    for (stem, name), (next_stem, other) in pairwise(sorted((os.path.splitext(name)[0], name) for name in found)):
        if stem == next_stem:
            raise InputError(f"{name} and {other} would give the same files; rename one of them")
    provenance = Provenance(outdir, ".mask_set")
    made_of = {
        "config": config,
        "seed": seed,
        "photographs": describe_images(indir, found, outdir),
        "photographs_sha256": _digest_of_images(indir, found),
    }
    provenance.check(made_of, what="a mask set", remedy="write to another folder, or remove that one")
    provenance.begin(made_of)
    left = [name for name in found if name not in provenance.done]
    if left:
        maker.masks.prepare()
    work = partial(_process_image, maker=maker, indir=indir, outdir=outdir, seed=seed)
    made = tqdm(map_in_processes(work, left, n_jobs, chunksize=4), total=len(left), unit="image")
    for name, masks_or_problem in zip(left, made, strict=True):
        provenance.add(name, masks_or_problem)
    drawn = [masks for masks in provenance.done.values() if isinstance(masks, int)]
    return MaskSet(len(drawn), sum(drawn), [reason for reason in provenance.done.values() if isinstance(reason, str)])


def read_recipe(path: Path, *, device: str | None = None, scale: int = 1) -> dict[str, Any]:
    """A file of configs/data_gen, for `make_mask_set`; `configs/data_gen/…` is found from any folder.

    scale: of `MaskSetMaker`, in place of the file's; 1: as in the file. device: where the network of segmentation masks
    runs, `cpu` or `cuda`; other masks have none.
    """
    try:
        config = read_yaml(published_config(path))
    except OSError as error:
        raise InputError(f"no config {path}; {RECIPES} holds the published ones") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected keys such as generator_kind, found {type(config).__name__}")
    if device and config.get("generator_kind") == "segmentation":
        config["mask_generator_kwargs"] = {**config.get("mask_generator_kwargs", {}), "device": device}
    return config if scale == 1 else {**config, "scale": scale}


def check_outside(outdir: Path, indir: Path) -> None:
    """An `InputError` if `outdir` is or lies in `indir`: what is written there would be read as images of its own."""
    inner, outer = outdir.resolve(), indir.resolve()
    if inner == outer or outer in inner.parents:
        raise InputError(
            f"{outdir} lies in {indir}: the next start would take its images for photographs; write to a folder outside"
        )


def _find_images(indir: Path, ext: str) -> list[str]:
    given = tuple("." + one.strip().lower().removeprefix(".") for one in ext.split(","))
    endings = IMAGE_SUFFIXES if ext == "auto" else given
    names = images_in(indir, endings)
    if not names:
        hint = "" if ext == "auto" else "; set --ext to the images' ending"
        raise InputError(f"{indir}: no image *{', *'.join(endings)} there{hint}")
    return names


def describe_images(indir: Path, names: Sequence[str], outdir: Path) -> dict[str, str]:
    """Which images something in `outdir` is made of: their folder, and a digest of their names and sizes in bytes.

    The folder is given as the way there from `outdir`, so that both may move.

    Not of their contents: this is for steps that would have to read hundreds of gigabytes.
    """
    digest = hashlib.sha256()
    for name in names:
        file = indir / name
        digest.update(os.fsencode(f"{name}\t{file.stat().st_size if file.is_file() else 'missing'}\n"))
    folder, start = indir.resolve(), outdir.resolve()
    way = Path(os.path.relpath(folder, start)) if folder.drive == start.drive else folder
    return {"folder": way.as_posix(), "digest": digest.hexdigest()}


def _digest_of_images(indir: Path, names: Sequence[str]) -> str:
    """Of the contents: an image may be replaced by one of as many bytes. What cannot be read is skipped later."""
    digest = hashlib.sha256()
    for name in tqdm(names, desc="check", unit="image", leave=False):
        try:
            content = digest_of(indir / name, "sha256")
        except OSError as error:
            if error.errno in REMEDIES:  # a disk that fails
                raise
            content = "unreadable"
        digest.update(os.fsencode(f"{name}\t{content}\n"))
    return digest.hexdigest()


def _process_image(name: str, *, maker: MaskSetMaker, indir: Path, outdir: Path, seed: int) -> int | str:
    """How many masks were written, or why none."""
    rng = MaskRandom.seeded(zlib.crc32(os.fsencode(f"{seed}:{name}")))
    base = outdir / os.path.splitext(name)[0]
    try:
        if len(os.fsencode(base.name)) + len("_crop000_mask000.png") > LONGEST_NAME:
            raise InputError("its name is too long for those of its masks; rename it")
        proposals = maker.propose(read_image(indir / name), rng)
    except (InputError, MemoryError) as error:
        if disk_problem(error) is not None:
            raise  # what the next start may be able to read is not written down as skipped
        return f"{name}: {' '.join(str(error).split()) or 'too large for the memory'}"
    base.parent.mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(proposals):
        crop = f"{base}_crop{i:03d}" if maker.cropping.out_square_crop else str(base)
        save_image(image, f"{crop}.png")
        save_image(Image.fromarray((mask * 255).astype(np.uint8)), f"{crop}_mask{i:03d}.png")
    return len(proposals)
