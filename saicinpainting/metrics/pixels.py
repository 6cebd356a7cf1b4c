"""Differences of pixel values: mean absolute error and peak signal-to-noise ratio, of the image or of the hole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from saicinpainting.metrics.base import ImageMetric, Row, Statistics, mean_and_std, precise

MAX_PSNR = 100.0


class _PixelScore(ImageMetric):
    """`hole`: the mean is over the pixels of the hole; images without one are left out."""

    def __init__(self, *, hole: bool = False) -> None:
        rows = {"values": Row()}
        if hole:
            # NaN also is the score of a prediction that holds NaN, which must not be left out.
            rows = {"values": Row(("pred", "target", "mask")), "pixels": Row(("mask",))}
        super().__init__(rows=rows)

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        return (inputs[0] > 0.5).flatten(1).sum(dim=1).float() if row == "pixels" else self.score(*inputs)

    @abstractmethod
    def score(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of each image, or of its hole, (B,)."""

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        values = rows["values"]
        return mean_and_std(values[rows["pixels"] > 0] if "pixels" in rows else values)


class L1Score(_PixelScore):
    """Mean absolute difference of pixel values in [0, 1]."""

    higher_is_better = False

    def score(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return _mean((precise(pred) - precise(target)).abs(), mask).float()


class PSNRScore(_PixelScore):
    """-10 log10 of the mean squared difference of pixel values in [0, 1], in dB, at most `MAX_PSNR`."""

    higher_is_better = True

    def score(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        error = _mean((precise(pred) - precise(target)).square(), mask)
        return (-10 * torch.log10(error)).clamp(max=MAX_PSNR).float()


def _mean(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image, (B,); difference: (B, C, H, W); mask: (B, 1, H, W), NaN where it is empty."""
    if mask is None:
        return difference.mean(dim=(1, 2, 3))
    hole = (mask > 0.5).to(difference)
    return (difference * hole).sum(dim=(1, 2, 3)) / (hole.sum(dim=(1, 2, 3)) * difference.shape[1])
