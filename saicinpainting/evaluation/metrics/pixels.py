"""Differences of pixel values: mean absolute error and peak signal-to-noise ratio, of the image or of the hole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saicinpainting.evaluation.metrics.base import ImageMetric, Row, Statistics, mean_and_std, precise

MAX_PSNR = 100.0


class _PixelScore(ImageMetric):
    """`hole`: the mean is over the pixels of the hole; images without one are left out."""

    def __init__(self, *, hole: bool = False) -> None:
        inputs = ("pred", "target", "mask") if hole else ("pred", "target")
        super().__init__(rows={"values": Row(inputs, kind="hole" if hole else "image")})

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        return mean_and_std(rows["values"])


class L1Score(_PixelScore):
    """Mean absolute difference of pixel values in [0, 1]."""

    higher_is_better = False

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        pred, target, *mask = inputs
        return _mean((precise(pred) - precise(target)).abs(), *mask).float()


class PSNRScore(_PixelScore):
    """-10 log10 of the mean squared difference of pixel values in [0, 1], in dB, at most `MAX_PSNR`."""

    higher_is_better = True

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        pred, target, *mask = inputs
        error = _mean((precise(pred) - precise(target)).square(), *mask)
        return (-10 * torch.log10(error)).clamp(max=MAX_PSNR).float()


def _mean(difference: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of each image, (B,); difference: (B, C, H, W); mask: (B, 1, H, W), NaN where it is empty."""
    if mask is None:
        return difference.mean(dim=(1, 2, 3))
    hole = (mask > 0.5).to(difference)
    return (difference * hole).sum(dim=(1, 2, 3)) / (hole.sum(dim=(1, 2, 3)) * difference.shape[1])
