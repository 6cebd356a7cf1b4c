"""Holes in the shape of the objects of a photograph, moved to other places of it: the paper's "segm" masks.

The official code segments with detectron2's panoptic FPN; here it is torchvision's Mask R-CNN (He et al. 2017, weights
trained on COCO). Objects that overlap belong to the one that is found with more confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.io.weights import weights_file
from saicinpainting.masks.generators import MaskRandom
from saicinpainting.utils import InputError

WEIGHTS = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
RIGIDNESS = ("soft", "rigid")


@dataclass(kw_only=True)
class ObjectDetector:
    """Finds the objects of an image; the network is built where it is first used, so that processes can be given one.

    Args:
        weights: a file of torchvision's `maskrcnn_resnet50_fpn_v2`; None takes the published ones, downloaded once.
        device: `cpu`, `cuda`, …
        confidence: objects found with less are left out, in [0, 1].
        network_size: the image's shorter side in the network, in pixels; the published weights want 800.
    """

    weights: str | None = None
    device: str = "cpu"
    confidence: float = 0.5
    network_size: int = 800

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> list[np.ndarray]:
        """RGB image -> boolean masks (H, W) that do not overlap, the most confident first."""
        pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).to(self.device).float() / 255
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the sums of several threads differ, and sets must not depend on their number
        try:
            found = self._network([pixels])[0]
        finally:
            torch.set_num_threads(threads)
        taken = np.zeros((image.height, image.width), bool)
        masks = []
        for score, soft in zip(found["scores"].tolist(), found["masks"][:, 0].cpu().numpy(), strict=True):
            own = (soft > 0.5) & ~taken
            if score < self.confidence or not own.any():
                continue
            taken |= own
            masks.append(own)
        return masks

    @cached_property
    def _network(self) -> torch.nn.Module:
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

        size = {"min_size": self.network_size, "max_size": round(self.network_size * 1333 / 800)}  # torchvision's ratio
        network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **size)
        path = self.file()
        try:
            network.load_state_dict(read_checkpoint(path)["state_dict"])
        except (RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: expected weights of torchvision's maskrcnn_resnet50_fpn_v2: {error}") from error
        return network.eval().to(self.device)

    def file(self) -> Path:
        """The weights, downloaded if need be.

        Raises:
            InputError: there are none.
        """
        if self.weights is not None and not Path(self.weights).is_file():
            raise InputError(f"mask_generator_kwargs.weights: no file {self.weights}")
        return weights_file(self.weights, WEIGHTS, what="Mask R-CNN for segmentation masks")


class Shape(NamedTuple):
    """A boolean mask cut out at its edges, and where its upper left corner lies; it may reach out of the image."""

    pixels: np.ndarray
    top: int
    left: int

    @classmethod
    def of(cls, mask: np.ndarray) -> Shape:
        """Of a mask (H, W) that is not empty."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(cut, int(rows[0]), int(columns[0]))

    def scaled(self, factor: float) -> Shape:
        """Around its centre; at least a pixel wide and high."""
        height, width = self.pixels.shape
        size = max(round(width * factor), 1), max(round(height * factor), 1)
        pixels = cv2.resize(self.pixels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return Shape(pixels, round(self.top + (height - size[1]) / 2), round(self.left + (width - size[0]) / 2))

    def drawn(self, height: int, width: int) -> np.ndarray:
        """The part that lies in an image: (height, width)."""
        image = np.zeros((height, width), bool)
        top, left = max(self.top, 0), max(self.left, 0)
        inside = self.pixels[top - self.top :, left - self.left :][: max(height - top, 0), : max(width - left, 0)]
        image[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return image


class Move(NamedTuple):
    """How an object becomes a hole: scale, mirroring, and shifts as shares of the image's sides."""

    scale: float
    flip: bool
    down: float
    right: float

    def __call__(self, shape: Shape, height: int, width: int) -> Shape:
        moved = shape.scaled(self.scale)
        pixels = moved.pixels[:, ::-1] if self.flip else moved.pixels
        return Shape(pixels, moved.top + round(self.down * height), moved.left + round(self.right * width))


@dataclass(kw_only=True)
class SegmentationMasks:
    """`generator_kind: segmentation`: objects of the image, scaled, mirrored and shifted to where they fit.

    Args:
        confidence_threshold: of the objects.
        rigidness_mode: `rigid` keeps holes off all objects, `soft` only off the one that they have the shape of;
            officially 1 and 0.
        max_object_area: objects this large, as a share of the image, give no holes.
        min_mask_area: smaller holes are dropped.
        downsample_levels: places are tried on an image of 2**this pixels on its longer side.
        num_variants_per_mask: most holes of one object.
        max_mask_intersection: largest share that two holes of an object, or hole and object, may have in common.
        max_foreground_coverage: largest share of an object that a hole may cover.
        max_foreground_intersection: largest share of a hole that may lie on an object.
        max_hidden_area: largest share of an object that may be shifted out of the image.
        max_scale_change: scales are drawn from 1 ± this.
        horizontal_flip: whether holes are mirrored half of the time.
        max_vertical_shift: vertical shifts are drawn from ± this share of the height.
        position_shuffle: whether places are tried in random order, instead of from the left.
        weights, device, network_size: see `ObjectDetector`.
    """

    confidence_threshold: float = 0.5
    rigidness_mode: str | int = "rigid"
    max_object_area: float = 0.3
    min_mask_area: float = 0.02
    downsample_levels: int = 6
    num_variants_per_mask: int = 4
    max_mask_intersection: float = 0.5
    max_foreground_coverage: float = 0.5
    max_foreground_intersection: float = 0.5
    max_hidden_area: float = 0.2
    max_scale_change: float = 0.25
    horizontal_flip: bool = True
    max_vertical_shift: float = 0.1
    position_shuffle: bool = True
    weights: str | None = None
    device: str = "cpu"
    network_size: int = 800

    def __post_init__(self) -> None:
        if self.rigidness_mode in (0, 1):
            self.rigidness_mode = RIGIDNESS[int(self.rigidness_mode)]
        if self.rigidness_mode not in RIGIDNESS:
            raise InputError(f"rigidness_mode: expected one of {', '.join(RIGIDNESS)}, got {self.rigidness_mode!r}")
        self.variants_n = self.num_variants_per_mask
        self.detect = ObjectDetector(
            weights=self.weights,
            device=self.device,
            confidence=self.confidence_threshold,
            network_size=self.network_size,
        )

    def prepare(self) -> None:
        """Download the network's weights, or fail before an image is looked at."""
        self.detect.file()

    def draw_for(self, image: Image.Image) -> ObjectHoles:
        """Finds the objects; holes can then be drawn any number of times."""
        return ObjectHoles(self, self.detect(image), image.height, image.width)


class ObjectHoles:
    """Draws the holes of an image whose objects are known: boolean masks (height, width) that do not overlap."""

    def __init__(self, settings: SegmentationMasks, objects: Sequence[np.ndarray], height: int, width: int) -> None:
        self.settings, self.height, self.width = settings, height, width
        scale = min(1.0, 2**settings.downsample_levels / max(height, width))
        small = max(round(width * scale), 1), max(round(height * scale), 1)
        reduced = [cv2.resize(o.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0 for o in objects]
        self._objects = [(whole, part) for whole, part in zip(objects, reduced, strict=True) if part.any()]

    def __call__(self, rng: MaskRandom) -> list[np.ndarray]:
        """float32 masks (H, W), 1 = hole; none where no object fits anywhere else."""
        holes = []
        for whole, part in self._objects:
            if whole.mean() >= self.settings.max_object_area:
                continue
            others = [small for _, small in self._objects] if self.settings.rigidness_mode == "rigid" else [part]
            for move in self._moves(part, others, rng):
                hole = move(Shape.of(whole), self.height, self.width).drawn(self.height, self.width)
                if hole.mean() > self.settings.min_mask_area:
                    holes.append(hole.astype(np.float32))
        return holes

    def _moves(self, mask: np.ndarray, foreground: Sequence[np.ndarray], rng: MaskRandom) -> Iterator[Move]:
        """Ways to move an object of the reduced image, each to a place of its own."""
        (height, width), shape, taken = mask.shape, Shape.of(mask), [mask]
        for _ in range(self.settings.num_variants_per_mask):
            move = self._draw_move(shape, height, width, rng)
            moved = move(shape, height, width)
            places = np.arange(-moved.pixels.shape[1] + 1, width)
            if self.settings.position_shuffle:
                rng.numpy.shuffle(places)
            for left in places.tolist():
                drawn = moved._replace(left=left).drawn(height, width)
                if self._fits(drawn, int(moved.pixels.sum()), foreground, taken):
                    taken.append(drawn)
                    yield move._replace(right=(left - moved.left) / width)
                    break
            else:
                return

    def _draw_move(self, shape: Shape, height: int, width: int, rng: MaskRandom) -> Move:
        """A move that does not go to the right yet."""
        settings, (rows, columns) = self.settings, shape.pixels.shape
        # An object at the edge may be cut off there: it is not enlarged beyond what the nearer edge leaves.
        room = min(
            2 * min(shape.top, height - shape.top - rows) / height,
            2 * min(shape.left, width - shape.left - columns) / width,
        )
        scale = min(rng.numpy.uniform(1 - settings.max_scale_change, 1 + settings.max_scale_change), 1 + room)
        flip = settings.horizontal_flip and bool(rng.numpy.randint(2))
        return Move(scale, flip, rng.numpy.uniform(-settings.max_vertical_shift, settings.max_vertical_shift), 0.0)

    def _fits(
        self, drawn: np.ndarray, area: int, foreground: Sequence[np.ndarray], taken: Sequence[np.ndarray]
    ) -> bool:
        """area: of the shape, with what lies out of the image."""
        settings, shown = self.settings, int(drawn.sum())
        if shown < (1 - settings.max_hidden_area) * area or not shown:
            return False
        for other in taken:
            common = int((drawn & other).sum())
            if max(common / other.sum(), common / shown) > settings.max_mask_intersection:
                return False
        for other in foreground:
            common = int((drawn & other).sum())
            if common / other.sum() > settings.max_foreground_coverage:
                return False
            if common / shown > settings.max_foreground_intersection:
                return False
        return True
