"""Semantic segmentation of the MIT scene parsing benchmark (Zhou et al., CVPR 2017), as the official evaluation has it.

The encoder is that of the perceptual loss, so whoever trains has one of the two files already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saicinpainting.io.connection import is_address
from saicinpainting.io.weights import torch_home, weights_file
from saicinpainting.networks.resnet_encoder import (
    ImageNetNormalization,
    ResNetEncoder,
    encoder_weights,
    load_published,
)
from saicinpainting.utils import InputError

_NAMES = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
    plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step,
    tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
    flag
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(","))
"""The 150 classes of ADE20K's benchmark in their order."""

Places = str | Path | Sequence[str | Path] | None
POOL_SIZES = (1, 2, 3, 6)
CLASSES_AT_ONCE = 10
ARCH = "resnet50dilated"


class PyramidPoolingDecoder(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017, section 3.2): (B, 2048, H, W) -> scores (B, 150, H, W)."""

    def __init__(self, channels: int = 2048, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.ppm = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size), nn.Conv2d(channels, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU()
            )
            for size in POOL_SIZES
        )
        self.conv_last = nn.Sequential(
            nn.Conv2d(channels + 512 * len(POOL_SIZES), 512, 3, padding=1, bias=False),
            nn.BatchNorm2d(512),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(512, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.interpolate(pool(x), x.shape[-2:], mode="bilinear", align_corners=False) for pool in self.ppm]
        return self.conv_last(torch.cat([x, *pooled], dim=1))


class ADE20KSegmentation(nn.Module):
    """(B, 3, H, W) in [0, 1] -> classes (B, H, W), int64 indices of `CLASSES`."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.normalize = ImageNetNormalization()

    def forward(self, image: Tensor) -> Tensor:
        # One by one: 150 maps of the size of a batch of large images would need tens of gigabytes.
        return torch.cat([self._classes(one) for one in image.split(1)])

    def _classes(self, image: Tensor) -> Tensor:
        scores = self.decoder(self.encoder(self.normalize(image))[-1])
        return best_classes(scores, image.shape[-2:])


def best_classes(scores: Tensor, size: Sequence[int]) -> Tensor:
    """The class of the highest of the `scores` (B, classes, h, w), enlarged to `size`: (B, H, W), int64.

    A few classes at a time, of which the best are kept: the result is that of all at once.
    """
    best = torch.full((len(scores), *size), -torch.inf, dtype=scores.dtype, device=scores.device)
    classes = torch.zeros(best.shape, dtype=torch.int64, device=scores.device)
    for first in range(0, scores.shape[1], CLASSES_AT_ONCE):
        part = scores[:, first : first + CLASSES_AT_ONCE]
        values, places = F.interpolate(part, tuple(size), mode="bilinear", align_corners=False).max(dim=1)
        better = values > best
        best = torch.where(better, values, best)
        classes = torch.where(better, places + first, classes)
    return classes


def weight_files(place: Places = None) -> tuple[Path, Path]:
    """The files of encoder and decoder, fetched if missing.

    place: a folder of weights (None: where PyTorch keeps its own), in which they lie as the official code wants them:
    `ade20k/ade20k-resnet50dilated-ppm_deepsup/encoder_epoch_20.pth`; or the two of them, files or addresses, which
    `weights_file` explains. The published ones have no checksum.
    """
    name, url = encoder_weights(ARCH, segmentation=True)
    names, urls = ([one, one.replace("encoder_epoch", "decoder_epoch")] for one in (name, url))
    place = torch_home() if place is None else place
    places = [place] if isinstance(place, (str, Path)) else list(place)
    if len(places) == 1 and not is_address(str(places[0])):
        places = [Path(places[0]) / name for name in names]
    if len(places) != 2:
        raise InputError(f"segm_weights: expected a folder, or [ENCODER, DECODER], files or addresses; got {place}")
    encoder, decoder = (
        weights_file(one, url, what=f"ADE20K {part}")
        for one, url, part in zip(places, urls, ("encoder", "decoder"), strict=True)
    )
    return encoder, decoder


def make_segmentation(encoder_file: Path, decoder_file: Path) -> ADE20KSegmentation:
    encoder, decoder = ResNetEncoder(ARCH), PyramidPoolingDecoder()
    load_published(encoder, encoder_file)
    load_published(decoder, decoder_file, without="deepsup")  # deep supervision is for training
    return ADE20KSegmentation(encoder, decoder)
