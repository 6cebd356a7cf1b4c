"""Drawings of batches while training: a row per item, a column per kind of image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from saicinpainting.io.images import to_pixels, write_image
from saicinpainting.utils import InputError, build, build_target

OUTLINE_RGB = (255, 0, 160)
TENSORBOARD_IMAGES = 4


def visualize_batch(
    batch: Mapping[str, Any],
    *,
    key_order: Sequence[str] = ("image", "predicted_image", "inpainted"),
    max_items: int = 10,
    last_without_mask: bool = True,
    rescale_keys: Collection[str] = (),
) -> np.ndarray:
    """Draw the first `max_items` of a batch; uint8 (rows · H, columns · W, 3), RGB.

    batch: the keys are (B, C, h, w) in [0, 1], of which the first three channels are shown, or the first alone where
    there are fewer; mask is (B, 1, H, W), 1 = hole. Keys that the batch lacks
    are left out. Images of `rescale_keys` (scores, in any range) are stretched to 0..1 one by one. The hole is
    outlined in all columns, save the last one where `last_without_mask`.
    """
    keys = [key for key in key_order if key in batch]
    if not keys:
        raise InputError(
            f"visualizer.key_order: the batch has none of {', '.join(key_order)}; it has {', '.join(batch)}"
        )
    outlined = keys[:-1] if last_without_mask else keys
    rows = []
    for item, mask in enumerate(batch["mask"][:max_items]):
        outline = _outline(mask)
        row = []
        for key in keys:
            shown = _to_uint8(batch[key][item], size=mask.shape[-2:], rescale=key in rescale_keys)
            if key in outlined:
                shown[outline] = OUTLINE_RGB
            row.append(shown)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def draw_in_tensorboard(loggers: Iterable[Any], batch: Mapping[str, Any], title: str, number: int, step: int) -> None:
    """Give `batch` to TensorBoard, if it is one of `loggers`, as image `number` of `title`, if that is a low one.

    Of a validation set so many are enough; the visualizer's folder gets all of them.
    """
    boards: list[Any] = [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
    if boards and number < TENSORBOARD_IMAGES:
        drawn = visualize_batch(batch, key_order=("image", "predicted_image", "inpainted"))
        for board in boards:
            board.add_image(f"{title}/{number}", drawn, step, dataformats="HWC")


@torch.no_grad()
def score_maps(discriminator: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The scores of `discriminator` for image and prediction, (B, 1, H, W); its running statistics stay."""
    was_training = discriminator.training
    discriminator.eval()
    size = batch["image"].shape[2:]
    scores = {
        f"discr_output_{name}": F.interpolate(discriminator(batch[key])[0], size=size, mode="nearest")
        for name, key in (("real", "image"), ("fake", "predicted_image"))
    }
    discriminator.train(was_training)
    return scores


def _to_uint8(image: Tensor, *, size: Sequence[int], rescale: bool) -> np.ndarray:
    """(C, h, w) -> uint8 (H, W, 3)."""
    image = image[: 3 if len(image) >= 3 else 1].detach().float().cpu()
    if rescale:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-5)
    image = F.interpolate(image[None], size=(size[0], size[1]), mode="nearest")[0].expand(3, -1, -1)
    return to_pixels(image)


def _outline(mask: Tensor) -> np.ndarray:
    """(1, H, W) -> bool (H, W): the pixels on both sides of the hole's edge."""
    hole = (mask[0] > 0.5).byte().cpu().numpy()
    return cv2.morphologyEx(hole, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)


class DirectoryVisualizer:
    """Writes `{outdir}/epoch0000{suffix}/batch0000000.jpg`; the options are `visualize_batch`'s."""

    def __init__(
        self,
        outdir: str | Path = "samples",
        key_order: Sequence[str] = ("image", "predicted_image", "inpainted"),
        max_items_in_batch: int = 10,
        last_without_mask: bool = True,
        rescale_keys: Sequence[str] | None = None,
    ) -> None:
        self.outdir = Path(outdir)
        self._draw = partial(
            visualize_batch,
            key_order=tuple(key_order),
            max_items=max_items_in_batch,
            last_without_mask=last_without_mask,
            rescale_keys=tuple(rescale_keys or ()),
        )

    def __call__(self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str = "") -> None:
        path = self.outdir / f"epoch{epoch_i:04d}{suffix}" / f"batch{batch_i:07d}.jpg"
        write_image(path, self._draw(batch))


class NoopVisualizer:
    """Draws nothing.

    Takes the settings of any other kind, so that `visualizer.kind=noop` alone switches drawing off.
    """

    def __init__(self, **_settings_of_other_kinds: Any) -> None:
        pass

    def __call__(self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str = "") -> None:
        pass


class Visualizer(Protocol):
    """What a visualizer has to have; `outdir`, the folder for its images, is given to those that take it."""

    def __call__(self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str) -> None:
        """`batch`: images (B, 1 or 3, h, w) in [0, 1] by name and `mask`; `suffix`: `_train`, `_val`, `_test`, …"""
        ...


VISUALIZERS: dict[str, Callable[..., Visualizer]] = {
    "directory": DirectoryVisualizer,
    "noop": NoopVisualizer,
}


def make_visualizer(kind: str | None = None, **settings: Any) -> Visualizer:
    """The visualizer that the config's `visualizer` describes."""
    if settings.get("_target_") is not None:
        outdir = {"outdir": settings.pop("outdir", "samples")}
        return build_target(settings, where="visualizer", interface=Visualizer, offered=outdir)
    return build(VISUALIZERS, {"kind": kind, **settings}, where="visualizer")
