"""From a folder of images with masks to a folder of filled images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import tqdm
from torch import nn
from torch.utils.data import default_collate

from saicinpainting.evaluation.refinement import refine_predict
from saicinpainting.evaluation.utils import move_to_device
from saicinpainting.evaluation.writing import write_picture
from saicinpainting.utils import InputError, call_with_settings

LOGGER = logging.getLogger(__name__)

FillBatch = Callable[[dict[str, Any]], torch.Tensor]


class MaskedImages(Protocol):
    """A data set of images with masks that knows the masks' file names."""

    mask_filenames: list[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


def plain(model: nn.Module, device: torch.device, out_key: str = "inpainted") -> FillBatch:
    """One forward pass; `out_key` picks `inpainted` or `predicted_image`."""
    if out_key not in ("inpainted", "predicted_image"):
        raise InputError(f"out_key: expected inpainted or predicted_image, got {out_key!r}")
    model.to(device)

    @torch.no_grad()
    def fill(batch: dict[str, Any]) -> torch.Tensor:
        return model(move_to_device(batch, device))[out_key]

    return fill


def refined(model: nn.Module, device: torch.device, refiner: Mapping[str, Any]) -> FillBatch:
    """Multi-scale refinement of the features (see `refinement.py`); `refiner` holds its settings."""
    model.to(device)

    def fill(batch: dict[str, Any]) -> torch.Tensor:
        return call_with_settings(refine_predict, {"batch": batch, "inpainter": model, **refiner}, where="refiner")

    return fill


def load_predictor(model: Mapping[str, Any], device: torch.device, **settings: Any) -> FillBatch:
    """The trained network of `model`: `path`, a run's folder, and `checkpoint`, a file of its `models/`.

    settings: `out_key` as in `plain`; `refine`: whether to refine, as `refiner` says.
    """
    from saicinpainting.config import read_experiment_config
    from saicinpainting.training.trainers import load_checkpoint

    config = read_experiment_config(model["path"])
    config.training_model.predict_only = True
    network = load_checkpoint(config, checkpoint_file(model), strict=False)
    network.freeze()
    if settings.get("refine"):
        return refined(network, device, settings["refiner"])
    return plain(network, device, settings.get("out_key", "inpainted"))


def checkpoint_file(model: Mapping[str, Any]) -> Path:
    """The file that `path` and `checkpoint` name."""
    return Path(model["path"]) / "models" / model["checkpoint"]


def predict_folder(
    fill: FillBatch,
    dataset: MaskedImages,
    indir: str | Path,
    outdir: str | Path,
    *,
    out_ext: str = ".png",
    keep: bool = False,
) -> list[Path]:
    """Fill every image of `dataset` and write it under its mask's name.

    Args:
        fill: a batch of one image in, the filled image (1, 3, H, W) in [0, 1] out.
        dataset: images with masks, as `make_default_val_dataset` makes them.
        indir: the folder the data set was made from; the results keep its sub-folders.
        outdir: where the results go.
        out_ext: `.png` (lossless) or another ending that OpenCV writes.
        keep: leave out images whose result is there.

    Returns:
        The written files.
    """
    written = []
    for index in tqdm.trange(len(dataset), desc="predict", unit="image"):
        file = Path(outdir) / Path(os.path.relpath(dataset.mask_filenames[index], indir)).with_suffix(out_ext)
        if keep and file.is_file():
            continue
        batch = default_collate([dataset[index]])
        result = fill(batch)[0].float().cpu()
        height, width = _size(batch)
        write_image(file, result[:, :height, :width])
        written.append(file)
    return written


def _size(batch: Mapping[str, Any]) -> tuple[int, int]:
    """The image's size before padding."""
    unpadded = batch.get("unpad_to_size")
    if unpadded is None:
        return batch["image"].shape[-2], batch["image"].shape[-1]
    height, width = np.asarray([np.asarray(v) for v in unpadded]).reshape(-1)
    return int(height), int(width)


def write_image(path: Path, image: torch.Tensor) -> None:
    """Write (3, H, W) in [0, 1], rounded to 8 bits: a pixel that was read from 8 bits comes back the same."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    write_picture(path, pixels)
