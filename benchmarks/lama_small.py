#!/usr/bin/env python3
"""Fills of a small network, what it starts from, OpenCV's Telea and Navier-Stokes (radius 5), and the mean colour.

Beside them the photograph itself, blurred in the hole by a Gaussian of 4 px: right in all tones and without details.

    benchmarks/lama_small.py RUN PHOTOGRAPHS [--limit 6] [--json FILE] [--pictures FILE.png]

Each photograph is brought to each size and gets three seeded masks of each kind of configs/data_gen. The table has
means over photographs and seeds: L1, PSNR and SSIM of the hole alone (of SSIM its map there), and `lite2`, the distance
of filled images by normalised stage features of EfficientNet-Lite2, which no training here has seen. The second table
sets the network against the better of Telea and Navier-Stokes. With `--json FILE` classical fills of the same crops and
masks are taken from the file, if it is there. The pictures show a case of each photograph, kinds and sizes in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path
from typing import Any

from common import ROOT, arguments, machine, write_json  # isort: skip  (makes the package importable)

sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from saicinpainting.cli import run_command
from saicinpainting.evaluation.comparison import CLASSICAL, Fill, contact_sheet, markdown, measure_fill
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io.folders import images_in
from saicinpainting.io.images import from_pixels, read_image, to_pixels, write_image
from saicinpainting.losses.perceptual import StageFeatureLoss
from saicinpainting.masks.generators import MaskRandom
from saicinpainting.masks.mask_sets import RECIPES, MaskSetMaker, read_recipe
from saicinpainting.networks.efficientnet_lite import load_efficientnet_lite
from saicinpainting.networks.initial_fill import fill_smoothly
from saicinpainting.utils import InputError, call_with_settings

KINDS = ("thin", "medium", "thick")
SIZES = (256, 512)
SEEDS = (0, 1, 2)
OURS, START, BLURRED = "network", "initial fill", "photograph, blurred"
BEST_OF = ("Telea", "Navier-Stokes")
METRICS = {"L1": min, "PSNR": max, "SSIM": max, "lite2": min}
"""Each with what is better."""
KEY = ["size", "masks", "photograph", "seed"]
CELL = 224

Row = dict[str, Any]


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("photographs", type=Path, help="folder of photographs that the run has not seen")
    parser.add_argument("--checkpoint", default="last.ckpt", help="in the run's models/ (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--limit", type=int, help="so many photographs and one seed, for a quick look")
    parser.add_argument("--pictures", type=Path, help="contact sheet")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    names = images_in(args.photographs)[: args.limit]
    if not names:
        raise InputError(f"{args.photographs}: no images there")
    network = Inpainter.from_pretrained(args.run, args.checkpoint, device="cpu")
    fills: dict[str, Fill] = {OURS: network, START: initial_fill, **CLASSICAL, BLURRED: blurred}
    judge = StageFeatureLoss(load_efficientnet_lite("lite2", where="benchmarks/lama_small.py"))
    known = earlier_rows(args.json)
    seeds = SEEDS if args.limit is None else SEEDS[:1]
    groups = [(size, kind) for size in args.sizes for kind in KINDS]
    rows: list[Row] = []
    sheet: list[list[np.ndarray]] = []
    for number, name in enumerate(tqdm(names, unit="photograph")):
        for group, (size, kind) in enumerate(groups):
            for seed in seeds:
                image, mask = draw(args.photographs, name, size=size, kind=kind, seed=seed)
                case = {"size": size, "masks": kind, "photograph": name, "seed": seed, "crc": digest(image, mask)}
                shown = args.pictures is not None and seed == seeds[0] and number % len(groups) == group
                filled: dict[str, np.ndarray] = {}
                for method, fill in fills.items():
                    key = (method, *case.values())
                    if method == OURS or key not in known or (shown and method in BEST_OF):
                        filled[method] = fill(image, mask)
                    rows.append(
                        known.get(key)
                        if method != OURS and key in known
                        else {"method": method, **case, **measure_fill(filled[method], image, mask, judge)}
                    )
                if shown:
                    sheet.append([image, holed(image, mask), *(filled[method] for method in (OURS, *BEST_OF))])
    table = pd.DataFrame(rows)
    print(machine(args.threads))
    print(f"{len(names)} photographs, seeds {', '.join(map(str, seeds))}, {args.run} {args.checkpoint}\n")
    print(means(table))
    print(ratios(table))
    if args.json is not None:
        checkpoint = f"{args.run.name}/{args.checkpoint}"
        write_json(rows, threads=args.threads, json_file=args.json, checkpoint=checkpoint)
    if args.pictures is not None:
        write_image(args.pictures, contact_sheet(("image", "masked", OURS, *BEST_OF), sheet, cell=CELL))
        print(f"pictures: {args.pictures}")


def earlier_rows(file: Path | None) -> dict[tuple[Any, ...], Row]:
    """Rows of classical fills, which no training changes, by method and case."""
    if file is None or not file.is_file():
        return {}
    rows = json.loads(file.read_text())["rows"]
    return {(row["method"], *(row[k] for k in (*KEY, "crc"))): row for row in rows if row["method"] != OURS}


def draw(folder: Path, name: str, *, size: int, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop, uint8 (H, W, 3), and its mask, uint8 (H, W), 0 or 255, as bin/gen_mask_dataset.py makes them."""
    maker = call_with_settings(MaskSetMaker, read_recipe(RECIPES / f"random_{kind}_{size}.yaml"), where="config")
    rng = MaskRandom.seeded(zlib.crc32(f"{seed}:{name}".encode()))
    image, mask = maker.propose(read_image(folder / name), rng)[0]
    return np.array(image), (mask > 0).astype(np.uint8) * 255


def digest(image: np.ndarray, mask: np.ndarray) -> str:
    return f"{zlib.crc32(mask.tobytes(), zlib.crc32(image.tobytes())):08x}"


def initial_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What lama-small starts from."""
    filled = fill_smoothly(from_pixels(image)[None], torch.from_numpy(mask > 0)[None, None].float())
    return to_pixels(filled[0])


def blurred(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What nobody who fills can do: the image's own tones in the hole."""
    return np.where(mask[..., None] > 0, cv2.GaussianBlur(image, (0, 0), 4), image)


def holed(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None] > 0, np.uint8(255), image)


def means(table: pd.DataFrame) -> str:
    """A row for each size, kind of masks and method."""
    grouped = table.groupby(["size", "masks", "method"], sort=False)[list(METRICS)].mean().reset_index()
    return markdown(grouped.to_dict("records"))


def ratios(table: pd.DataFrame) -> str:
    """The network's mean beside that of the better of Telea and Navier-Stokes."""
    grouped = table.groupby(["size", "masks", "method"], sort=False)[list(METRICS)].mean()
    lines = []
    for size, kind in dict.fromkeys(zip(table["size"], table["masks"], strict=True)):
        ours = grouped.loc[(size, kind, OURS)]
        line: Row = {"size": size, "masks": kind}
        for metric, better in METRICS.items():
            best = better(grouped.loc[(size, kind, method)][metric] for method in BEST_OF)
            ratio = ours[metric] / best - 1
            line[metric] = f"{ours[metric] - best:+.2f} dB" if metric == "PSNR" else f"{ratio:+.1%}"
        lines.append(line)
    return markdown(lines)


if __name__ == "__main__":
    run_command(main)
