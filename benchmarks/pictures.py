#!/usr/bin/env python3
"""The pictures of docs/predict.md: photographs of more than 2K, and what growing and feathering a mask does.

    benchmarks/pictures.py FOLDER [--model lama-small] [--outdir docs]

FOLDER: the photographs of the package lomiri-wallpapers-16.04 (Debian), usr/share/backgrounds in it;
bin/prepare_lama_small.py unpacks it into its cache. Masks are outlines drawn by hand, below. Each picture is filled by
bin/predict.py. Both photographs were held out of lama-small's data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT

sys.path.insert(0, str(ROOT))

import cv2
import numpy as np

from saicinpainting.cli import run_command
from saicinpainting.evaluation.comparison import contact_sheet
from saicinpainting.io.images import read_image, write_image

Outline = list[tuple[int, int]]

DOG: Outline = [(220, 322), (236, 312), (262, 310), (288, 324), (310, 348), (316, 396), (310, 428), (286, 426)]
DOG += [(273, 434), (272, 456), (244, 460), (230, 432), (222, 404), (214, 360)]
GLASS: Outline = [(170, 134), (214, 134), (214, 186), (206, 242), (176, 242)]
BOTTLE: Outline = [(211, 82), (242, 82), (252, 160), (250, 236), (210, 236)]
DRAWN_AT = 700
"""Height of the photographs that the outlines are drawn on."""
PHOTOGRAPHS = {"friends_by_Aitzol_Berasategi.jpg": [DOG], "Wine_by_Jakkub_Mede.jpg": [GLASS, BOTTLE]}
REFINED = ["refine=true", "refiner.n_iters=8"]
RIMS_AT = 1024
"""Height at which rims are shown."""
TIGHT = 9
"""Pixels by which the dog's outline shrinks there, as a hasty hand draws it."""
WINDOW = (slice(400, 720), slice(250, 570))
EDGES = {
    "filled": [],
    "mask.grow=12": ["mask.grow=12"],
    "mask.grow=12 mask.feather=6": ["mask.grow=12", "mask.feather=6"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the photographs")
    parser.add_argument("--model", default="lama-small", help="run, file or published model (default: %(default)s)")
    parser.add_argument("--outdir", type=Path, default=ROOT / "docs", help="default: %(default)s")
    args = parser.parse_args()
    whole = []
    for name, outlines in PHOTOGRAPHS.items():
        image = np.array(read_image(args.folder / name))
        mask = hole(image, outlines)
        print(f"{name}: {image.shape[1]} x {image.shape[0]}, {mask.mean() / 255:.1%} hole", flush=True)
        whole.append([image, shown(image, mask), *(fill(image, mask, args.model, how) for how in ([], REFINED))])
    titles = ("photograph", "hole", args.model, " ".join(REFINED))
    write_image(args.outdir / "large.jpg", contact_sheet(titles, whole, cell=360))

    image = np.array(read_image(args.folder / next(iter(PHOTOGRAPHS))))
    image = cv2.resize(image, (image.shape[1] * RIMS_AT // image.shape[0], RIMS_AT), interpolation=cv2.INTER_AREA)
    mask = cv2.erode(hole(image, [DOG]), np.ones((2 * TIGHT + 1, 2 * TIGHT + 1), np.uint8))
    rims = [shown(image, mask), *(fill(image, mask, args.model, how) for how in EDGES.values())]
    titles = ("hole, drawn too tight", *EDGES)
    write_image(args.outdir / "rims.jpg", contact_sheet(titles, [[picture[WINDOW] for picture in rims]], cell=320))


def hole(image: np.ndarray, outlines: list[Outline]) -> np.ndarray:
    """uint8 (H, W), 255 inside the outlines."""
    mask = np.zeros(image.shape[:2], np.uint8)
    for outline in outlines:
        points = np.array(outline) * image.shape[0] / DRAWN_AT
        cv2.fillPoly(mask, [points.round().astype(np.int32)], (255,))
    return mask


def fill(image: np.ndarray, mask: np.ndarray, model: str, settings: list[str]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / file for file in ("image.png", "mask.png", "filled.png")]
        write_image(files[0], image)
        write_image(files[1], mask[..., None])
        words = [f"{key}={file}" for key, file in zip(("indir", "mask.path", "out"), files, strict=True)]
        command = [sys.executable, str(ROOT / "bin" / "predict.py"), f"model.path={model}", *words, *settings]
        subprocess.run(command, check=True)
        return np.array(read_image(files[2]))


def shown(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None] > 0, np.uint8(255), image)


if __name__ == "__main__":
    run_command(main)
