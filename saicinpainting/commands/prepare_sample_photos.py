"""Make the demo's data from photographs in the packages scikit-image and scikit-learn: no download, seconds.

OUTDIR gets photos/ (six that lama-small was not trained on), large/ (one of them, enlarged), train/ (tiles of two
others, for fine-tuning), val/ and visual_test/ (one more, with masks).
"""

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from saicinpainting.cli import command
from saicinpainting.config import CONFIGS
from saicinpainting.utils import InputError

IMAGES = {"skimage": "data", "sklearn": "datasets/images"}
SHOWN = ("skimage/astronaut.png", "skimage/chelsea.png", "skimage/coffee.png",
         "skimage/rocket.jpg", "sklearn/china.jpg", "sklearn/flower.jpg")  # fmt: skip
ENLARGED, LARGE_WIDTH = "sklearn/china.jpg", 2048
TRAIN = ("skimage/brick.png", "skimage/gravel.png")
VAL = ("skimage/motorcycle_left.png",)
TILE, STEP = 256, 64
MASKS = CONFIGS / "data_gen" / "random_medium_256.yaml"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    outdir = parser.parse_args().outdir
    photos = {name: find(name) for name in (*SHOWN, *TRAIN, *VAL)}
    from saicinpainting.io.images import save_image
    from saicinpainting.masks.generators import MaskRandom, RandomIrregularMaskGenerator
    from saicinpainting.masks.mask_sets import make_mask_set, read_recipe

    for folder in ("photos", "large", "train", "val", "visual_test"):
        if (outdir / folder).exists():
            shutil.rmtree(outdir / folder)
        (outdir / folder).mkdir(parents=True)
    for name in SHOWN:
        save_image(photos[name], outdir / "photos" / f"{Path(name).stem}.png")
    scale = LARGE_WIDTH / photos[ENLARGED].width
    size = (LARGE_WIDTH, round(photos[ENLARGED].height * scale))
    enlarged = photos[ENLARGED].resize(size, Image.Resampling.LANCZOS)
    # Strokes as wide and as long as those of random_medium_512.yaml for this many pixels.
    strokes = RandomIrregularMaskGenerator(min_times=4, max_times=6, max_len=650, max_width=330)
    mask = strokes.sample(size[::-1], MaskRandom.seeded(0)) > 0
    save_image(enlarged, outdir / "large" / f"{Path(ENLARGED).stem}.png")
    save_image(Image.fromarray(mask), outdir / "large" / f"{Path(ENLARGED).stem}_mask000.png")
    tiles = 0
    for name in TRAIN:
        for top in range(0, photos[name].height - TILE + 1, STEP):
            for left in range(0, photos[name].width - TILE + 1, STEP):
                tile = photos[name].crop((left, top, left + TILE, top + TILE))
                save_image(tile, outdir / "train" / f"{Path(name).stem}_{top:03d}_{left:03d}.png")
                tiles += 1
    watched = outdir / "val_photos"
    watched.mkdir(exist_ok=True)
    for name in VAL:
        save_image(photos[name], watched / f"{Path(name).stem}.png")
    for seed, folder in enumerate(("val", "visual_test")):
        made = make_mask_set(read_recipe(MASKS), watched, outdir / folder, ext="png", seed=seed)
        print(f"{outdir / folder}: {made}")
    print(f"{outdir / 'photos'}: {len(SHOWN)} photographs; {outdir / 'train'}: {tiles} tiles")


def find(name: str) -> Image.Image:
    """A photograph that a package ships, as RGB; `name`: PACKAGE/FILE."""
    package, file = name.split("/")
    found = find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"{package} is not installed; pip install scikit-image scikit-learn")
    path = Path(found.origin).parent / IMAGES[package] / file
    if not path.is_file():
        raise InputError(f"{path} is missing; the demo was made with scikit-image 0.26 and scikit-learn 1.7")
    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main()
