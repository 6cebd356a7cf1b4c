#!/usr/bin/env python3
"""Make the demo's data set from the photographs in the scikit-image package: no download, one second.

OUTDIR gets train/ (tiles of some photographs), val/ and visual_test/ (one other photograph, with masks), and photos/
(three more, never seen in training), for the prediction at the end.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import yaml
from PIL import Image

from saicinpainting.cli import run_command
from saicinpainting.evaluation.masks.mask_sets import make_mask_set
from saicinpainting.utils import InputError

TRAIN = ("motorcycle_left.png", "hubble_deep_field.jpg", "camera.png", "coins.png", "brick.png", "grass.png",
         "gravel.png", "moon.png", "ihc.png", "retina.jpg")  # fmt: skip
VAL = ("rocket.jpg",)
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png")
TILE, STEP = 256, 160
MASKS = ROOT / "configs" / "data_gen" / "random_medium_256.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    outdir = parser.parse_args().outdir
    for folder in ("train", "val", "visual_test", "photos"):
        shutil.rmtree(outdir / folder, ignore_errors=True)
        (outdir / folder).mkdir(parents=True)
    tiles = sum(save_tiles(name, outdir / "train") for name in TRAIN)
    for name in HELD_OUT:
        find(name).save(outdir / "photos" / Path(name).with_suffix(".png"))
    held_back = outdir / "val_photos"
    held_back.mkdir(exist_ok=True)
    for name in VAL:
        save_tiles(name, held_back)
    config = yaml.safe_load(MASKS.read_text())
    for seed, folder in enumerate(("val", "visual_test")):
        made = make_mask_set(config, held_back, outdir / folder, ext="png", seed=seed)
        print(f"{outdir / folder}: {made}")
    print(f"{outdir / 'train'}: {tiles} tiles; {outdir / 'photos'}: {len(HELD_OUT)} photographs")


def find(name: str) -> Image.Image:
    """A photograph of the scikit-image wheel, as RGB."""
    try:
        import skimage
    except ImportError as error:
        raise InputError("scikit-image is not installed; `pip install -r requirements.txt` brings it") from error
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise InputError(f"{path} is missing; install the scikit-image of requirements.txt")
    return Image.open(path).convert("RGB")


def save_tiles(name: str, folder: Path) -> int:
    """Overlapping tiles of the photograph at full size, and of its half if that is still larger than a tile."""
    photo = find(name)
    count = 0
    for scale in (1, 2):
        small = photo.resize((photo.width // scale, photo.height // scale), Image.Resampling.LANCZOS)
        if min(small.size) < TILE:
            break
        for top in range(0, small.height - TILE + 1, STEP):
            for left in range(0, small.width - TILE + 1, STEP):
                tile = small.crop((left, top, left + TILE, top + TILE))
                tile.save(folder / f"{Path(name).stem}_{scale}_{top:04d}_{left:04d}.png")
                count += 1
    return count


if __name__ == "__main__":
    run_command(main)
