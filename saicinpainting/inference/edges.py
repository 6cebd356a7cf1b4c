"""The edge of a hole: grow the mask over rims and shadows, fade the fill in, match its colours to what is around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from saicinpainting.io.images import mirrored
from saicinpainting.utils import InputError, check_bool, check_whole

Batch = dict[str, Any]


class MatchingBackend(Protocol):
    """Images of one padded size with masks to the filled images (B, 3, H, W) in [0, 1], on whatever device."""

    def __call__(self, batch: Batch, *, match_colors: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class EdgeSettings:
    """How a fill meets what is around it: the section `mask` of configs/prediction without its `path`.

    Args:
        grow: pixels by which the mask grows before anything else, a disk of this radius around each of its pixels.
            What is outside the grown mask stays as it was.
        feather: pixels over which the fill fades in, from the grown mask's edge inwards. They lie in what `grow` added:
            inside the mask itself the fill is opaque, so that nothing of what it covers shines through.
        match_colors: take off the difference that the network has from known pixels around the hole, within 16 pixels
            behind its edge, see `tiling.without_seam`.

    Raises:
        InputError: a value that is no whole number of pixels, or `feather` above `grow`.
    """

    grow: int = 0
    feather: int = 0
    match_colors: bool = False

    def __post_init__(self) -> None:
        check_whole("mask.grow", self.grow)
        check_whole("mask.feather", self.feather)
        check_bool("mask.match_colors", self.match_colors)
        if self.feather > self.grow:
            raise InputError(
                f"mask.feather={self.feather}: the fill fades within the {self.grow} pixels that mask.grow adds; set "
                f"mask.grow={self.feather} or more"
            )


def grow_hole(hole: np.ndarray, pixels: int) -> np.ndarray:
    """`hole`, bool (H, W), and what is at most `pixels` from it: a dilation by a disk.

    By distances, whose cost does not depend on the disk; a dilation of kornia takes its area times the image's memory.
    """
    if pixels == 0 or not hole.any():
        return hole
    return _distance_to(hole) <= pixels


def fill_weight(hole: np.ndarray, grown: np.ndarray, feather: int) -> np.ndarray:
    """How much of the fill each pixel takes, float32 (H, W) in [0, 1].

    0 outside `grown`, 1 in `hole`, both bool (H, W). Between them a pixel d pixels from the nearest outside one takes
    d / (feather + 1), at most 1. At the image's border, where nothing is outside, the fill does not fade.
    """
    weight = grown.astype(np.float32)
    if feather and not grown.all():
        weight = np.minimum(_distance_to(~grown) / (feather + 1), 1)
        weight[hole] = 1
    return weight


def _distance_to(where: np.ndarray) -> np.ndarray:
    """Pixels, centre to centre, to the nearest one that is true, float32 (H, W)."""
    return cv2.distanceTransform((~where).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fade(image: Tensor, filled: Tensor, weight: Tensor) -> Tensor:
    """`filled` over `image`, (B, 3, H, W), by `weight`, (B, 1, H, W); `filled` in every bit where that is 0 or 1."""
    weight = weight.to(filled)
    partly = (weight > 0) & (weight < 1)
    return torch.where(partly, torch.lerp(image.to(filled), filled, weight), filled)


def fill_with_edge(backend: MatchingBackend, batch: Batch, edge: EdgeSettings) -> Tensor:
    """What `backend` makes of `batch` with its masks grown, faded into the images.

    The grown masks are padded as data sets pad masks, so that an image comes out as it would without padding.
    """
    if not edge.grow:  # and so no feather
        return backend(batch, match_colors=edge.match_colors)
    holes = (batch["mask"][:, 0] > 0).cpu().numpy()
    grown = np.stack(
        [_grown_and_padded(hole, size, edge.grow) for hole, size in zip(holes, _sizes(batch), strict=True)]
    )
    filled = backend({**batch, "mask": torch.from_numpy(grown)[:, None].float()}, match_colors=edge.match_colors)
    if not edge.feather:
        return filled
    weights = [fill_weight(*pair, edge.feather) for pair in zip(holes, grown, strict=True)]
    image, weight = batch["image"], torch.from_numpy(np.stack(weights))[:, None]
    height, width = filled.shape[2:]  # refinement leaves the padding out
    return fade(image[:, :, :height, :width], filled, weight[:, :, :height, :width])


def _grown_and_padded(hole: np.ndarray, size: tuple[int, int], pixels: int) -> np.ndarray:
    """hole: bool (H, W); size: its (H, W) without padding."""
    grown = torch.from_numpy(grow_hole(hole[: size[0], : size[1]], pixels))
    return mirrored(grown[None, None], *hole.shape)[0, 0].numpy()


def _sizes(batch: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(H, W) of each image of a batch without its padding."""
    number, _, *padded = batch["mask"].shape
    sides = [torch.as_tensor(side).expand(number).tolist() for side in batch.get("unpad_to_size", padded)]
    return list(zip(*sides, strict=True))


class EdgedBackend:
    """Fills batches by `backend` with the same settings of the edge for all."""

    def __init__(self, backend: MatchingBackend, edge: EdgeSettings) -> None:
        self.backend, self.edge = backend, edge
        self.image_channels = getattr(backend, "image_channels", 3)

    def __call__(self, batch: Batch) -> Tensor:
        return fill_with_edge(self.backend, batch, self.edge)
