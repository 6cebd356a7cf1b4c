#!/usr/bin/env python3
"""Training samples: what one costs on one core, by transform variant and part; and samples a second by workers.

    benchmarks/data.py [--photos FOLDER] [--workers 0 1 2] [--json FILE]

Without --photos, photographs of scikit-image with a shorter side of 512 px, as JPEGs of the mean size of those of
Places365-Standard (105 GB / 1.80 million = 58 kB). Case `sample`: the whole sample, file to tensor, with a wide mask.
`reference`: the official steps one after another, decoded by Pillow, through albumentations. `imreads`: this time /
that of cv2.imread on the same files, call by call in turns with it. `ratio`: the reference's `imreads` / these.
Case `part`: the steps of a `distortions` sample, ratio of the whole to the part. Case `loader`: seconds a sample of a
folder and of shards by the number of worker processes, ratio to none.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

from common import arguments, report  # isort: skip  (makes the package importable)

import albumentations as A
import cv2
import numpy as np
import skimage
import torch
from PIL import Image

from saicinpainting.data.aug import VARIANTS, Variant, change_colours, get_transforms, to_float
from saicinpainting.data.datasets import InpaintingTrainDataset, make_dataloader
from saicinpainting.data.loading import decode
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.shard_writing import write_shards
from saicinpainting.data.shards import ShardSource
from saicinpainting.data.sources import FolderSource, ImageSource
from saicinpainting.masks.mixed import get_mask_generator

CROP = 256
MEAN_BYTES = 58_000
WIDE = {
    "irregular_kwargs": {"max_angle": 4, "max_len": 200, "max_width": 100, "max_times": 5, "min_times": 1},
    "box_kwargs": {"margin": 10, "bbox_min_size": 30, "bbox_max_size": 150, "max_times": 4, "min_times": 1},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to measure with")
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each variant (default: 40)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of loader workers")
    parser.add_argument("--samples", type=int, default=600, help="of each loader (default: 600)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        photos = args.photos or write_photos(Path(folder))
        os.sched_setaffinity(0, {max(cores)})
        rows = [row for name in VARIANTS for row in compare(name, photos, args.rounds)]
        rows += parts(photos, args.rounds)
        os.sched_setaffinity(0, cores)
        rows += loaders(FolderSource(photos), "folder", args)
        write_shards(FolderSource(photos), Path(folder) / "shards", root=photos)
        rows += loaders(ShardSource(Path(folder) / "shards"), "shards", args)
    report(rows, threads=1, json_file=args.json)


def write_photos(folder: Path) -> Path:
    images = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
            image = file.convert("RGB")
        scale = 512 / min(image.size)
        images.append(image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC))

    def save(quality: int) -> float:
        files = [folder / f"{i}.jpg" for i in range(len(images))]
        for image, file in zip(images, files, strict=True):
            image.save(file, quality=quality)
        return statistics.mean(file.stat().st_size for file in files)

    save(min(range(60, 96), key=lambda quality: abs(save(quality) - MEAN_BYTES)))
    return folder


def compare(variant: str, photos: Path, rounds: int) -> list[dict]:
    dataset = make_dataset(FolderSource(photos), variant)
    files, numbers = dataset.source.files, count()
    steps, masks = official_steps(VARIANTS[variant]), get_mask_generator("mixed", WIDE)

    def reference(i: int) -> None:
        with Image.open(files[i]) as file:
            image = steps(image=np.asarray(file.convert("RGB")))["image"]
        masks(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def ours(i: int) -> None:
        dataset[SampleKey(i, next(numbers), 0)]

    def imread(i: int) -> None:
        cv2.imread(files[i])

    rows = []
    for name, sample in {"reference": reference, "ours": ours}.items():
        took = in_turns({"imread": imread, name: sample}, len(files), rounds)
        imreads = took[name] / took["imread"]
        rows.append(
            {
                "case": f"sample {variant}",
                "variant": name,
                "seconds": took[name],
                "ratio": (rows[0]["imreads"] if rows else imreads) / imreads,
                "peak_mb": None,
                "imreads": imreads,
                "samples_s": 1 / took[name],
            }
        )
    return rows


def in_turns(work: dict[str, Callable[[int], object]], images: int, rounds: int) -> dict[str, float]:
    """Median seconds a call; variants take turns with every image, so that none keeps the caches warm for itself."""
    seconds = defaultdict(list)
    for _ in range(rounds):
        spent = defaultdict(float)
        for i in range(images):
            for name, call in work.items():
                start = time.perf_counter()
                call(i)
                spent[name] += time.perf_counter() - start
        for name, total in spent.items():
            seconds[name].append(total / images)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_dataset(source: ImageSource, variant: str) -> InpaintingTrainDataset:
    return InpaintingTrainDataset(source, get_mask_generator("mixed", WIDE), get_transforms(variant, CROP))


def official_steps(variant: Variant) -> A.Compose:
    steps: list[A.BasicTransform] = []
    if variant.geometry is not None:
        geometry, reflect = variant.geometry, {"border_mode": cv2.BORDER_REFLECT_101}
        if geometry.rescale is not None:
            steps.append(A.RandomScale(scale_limit=geometry.rescale))
        if geometry.perspective is not None:
            steps.append(A.Perspective(scale=(0, geometry.perspective), border_mode=cv2.BORDER_REPLICATE))
        if geometry.scale is not None:
            shear = (-geometry.shear, geometry.shear)
            steps.append(
                A.Affine(
                    scale={"x": geometry.scale, "y": geometry.scale},
                    rotate=(-geometry.rotate, geometry.rotate),
                    shear={"x": shear, "y": shear},
                    p=geometry.affine_p,
                    **reflect,
                )
            )
        steps.append(A.PadIfNeeded(CROP, CROP, **reflect))
        if geometry.optical:
            steps.append(A.OpticalDistortion(distort_limit=0.05, **reflect))
        steps += [A.RandomCrop(CROP, CROP), A.HorizontalFlip()]
    if variant.photometric:
        steps += [
            A.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8)),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2),
            A.HueSaturationValue(hue_shift_limit=5, sat_shift_limit=30, val_shift_limit=5),
        ]
    return A.Compose([*steps, A.ToFloat(max_value=255)])


def parts(photos: Path, rounds: int) -> list[dict]:
    """The steps of a `distortions` sample, each timed within whole samples, since caches decide much of it."""
    dataset, geometry = make_dataset(FolderSource(photos), "distortions"), VARIANTS["distortions"].geometry
    seconds, start = defaultdict(float), 0.0

    def lap(name: str) -> None:
        nonlocal start
        seconds[name] += time.perf_counter() - start
        start = time.perf_counter()

    numbers = range(rounds * len(dataset))
    for number in numbers:
        rng = random.Random(number)
        index = number % len(dataset)
        start = time.perf_counter()
        image = decode(dataset.source.read(index), "").pixels
        lap("read and decode")
        image = geometry.draw(image.shape[:2], CROP, rng).warp(image)
        lap("geometry")
        image = change_colours(image, rng)
        lap("photometry")
        image = to_float(image)
        lap("to float")
        dataset.mask_generator(image, iter_i=0, rng=dataset._random.reseed(number))
        lap("mask")
    whole = sum(seconds.values())
    rows = [("part of distortions", name, value) for name, value in [*seconds.items(), ("all", whole)]]
    return [
        {"case": case, "variant": name, "seconds": value / len(numbers), "ratio": whole / value, "peak_mb": None}
        for case, name, value in rows
    ]


def loaders(source: ImageSource, name: str, args: argparse.Namespace) -> list[dict]:
    rows: list[dict] = []
    for number in args.workers:
        dataset = make_dataset(source, "distortions")
        keys = [SampleKey(i % len(dataset), i, 0) for i in range(args.samples)]
        data = make_dataloader(dataset, {"batch_size": 10, "num_workers": number, "sampler": keys}, where="data.train")
        next(iter(data))  # starts the workers
        start = time.perf_counter()
        for _ in data:
            pass
        seconds = (time.perf_counter() - start) / len(keys)
        rows.append(
            {
                "case": f"loader distortions, {name}",
                "variant": f"{number} workers",
                "seconds": seconds,
                "ratio": (rows[0]["seconds"] if rows else seconds) / seconds,
                "peak_mb": None,
                "samples_s": 1 / seconds,
            }
        )
    return rows


if __name__ == "__main__":
    main()
