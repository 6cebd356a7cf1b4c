"""Make the demo's data set from the photographs in the scikit-image package: no download, one second.

OUTDIR gets train/ (tiles of some photographs), val/ and visual_test/ (one other photograph, with masks), and photos/
(three more, never seen in training), for the prediction at the end.
"""

import argparse
import colorsys
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageChops

from saicinpainting.cli import command
from saicinpainting.config import CONFIGS
from saicinpainting.utils import InputError

TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
         "camera.png", "coins.png", "brick.png", "grass.png", "gravel.png", "moon.png")  # fmt: skip
VAL = ("rocket.jpg",)
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png")
TRAIN_SIZE = 128
SCALES = (1, 1.4, 2, 2.8, 4)
MASKS = CONFIGS / "data_gen" / "random_medium_256.yaml"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    outdir = parser.parse_args().outdir
    from saicinpainting.io.images import save_image
    from saicinpainting.masks.mask_sets import make_mask_set

    for folder in ("train", "val", "visual_test", "photos"):
        if (outdir / folder).exists():
            shutil.rmtree(outdir / folder)
        (outdir / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    tiles = sum(save_tiles(name, outdir / "train", TRAIN_SIZE, rng) for name in TRAIN)
    for name in HELD_OUT:
        save_image(find(name), outdir / "photos" / Path(name).with_suffix(".png"))
    held_back = outdir / "val_photos"
    held_back.mkdir(exist_ok=True)
    for name in VAL:
        save_image(find(name), held_back / Path(name).with_suffix(".png"))
    config = yaml.safe_load(MASKS.read_text(encoding="utf-8"))
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


def tint(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Give a grey tile the tones of photographs: brown and beige mostly, now and then blue."""
    hue = rng.normal(0.08, 0.04) if rng.random() < 0.8 else rng.normal(0.6, 0.04)
    dark = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0, 0.8), rng.uniform(0, 0.3))
    bright = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0, 0.6), rng.uniform(0.6, 1))
    grey = np.asarray(tile.convert("L"))[..., None]
    return Image.fromarray((np.array(dark) * (255 - grey) + np.array(bright) * grey).astype(np.uint8))


def save_tiles(name: str, folder: Path, size: int, rng: np.random.Generator) -> int:
    """Overlapping tiles of the photograph at several scales, grey ones in several tints.

    Grey photographs are tinted, or the network would learn that holes are grey.
    """
    from saicinpainting.io.images import save_image

    photo, count = find(name), 0
    red, green, _ = photo.split()
    grey = ImageChops.difference(red, green).getbbox() is None
    for scale in SCALES:
        small = photo.resize((round(photo.width / scale), round(photo.height / scale)), Image.Resampling.LANCZOS)
        for top in range(0, small.height - size + 1, size * 3 // 4):
            for left in range(0, small.width - size + 1, size * 3 // 4):
                tile = small.crop((left, top, left + size, top + size))
                pictures = [tint(tile, rng) for _ in range(3)] if grey else [tile]
                for variant, picture in enumerate(pictures):
                    save_image(picture, folder / f"{Path(name).stem}_{scale}_{top:04d}_{left:04d}_{variant}.png")
                count += len(pictures)
    return count
