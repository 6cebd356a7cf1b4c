"""Structural similarity (Wang et al. 2004)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from saicinpainting.metrics.base import ImageMetric, Row, Statistics, mean_and_std, precise

C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]; Wang et al., section III.B


def ssim(pred: Tensor, target: Tensor, *, window_size: int = 11, sigma: float = 1.5) -> Tensor:
    """SSIM of each image, (B,): mean over channels and pixels of `ssim_map`."""
    return ssim_map(pred, target, window_size=window_size, sigma=sigma).mean(dim=(1, 2, 3))


def ssim_map(pred: Tensor, target: Tensor, *, window_size: int = 11, sigma: float = 1.5) -> Tensor:
    """Eq. 13 at every pixel, (B, C, H, W), with a Gaussian window and zero padding.

    pred, target: (B, C, H, W) in [0, 1].
    """
    offsets = torch.arange(window_size, dtype=pred.dtype, device=pred.device) - window_size // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    mu_x, mu_y, xx, yy, xy = (
        _blur(image, weights) for image in (pred, target, pred * pred, target * target, pred * target)
    )
    sigma_x, sigma_y, sigma_xy = xx - mu_x**2, yy - mu_y**2, xy - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + C1) / (mu_x**2 + mu_y**2 + C1)
    contrast_and_structure = (2 * sigma_xy + C2) / (sigma_x + sigma_y + C2)
    return luminance * contrast_and_structure


def _blur(image: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over a square window as two one-dimensional passes; image: (B, C, H, W)."""
    channels, half = image.shape[1], len(weights) // 2
    row = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    blurred = F.conv2d(image, row, padding=(0, half), groups=channels)
    return F.conv2d(blurred, row.transpose(2, 3), padding=(half, 0), groups=channels)


class SSIMScore(ImageMetric):
    """SSIM with the window of the official LaMa evaluation."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(rows={"values": Row()})

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        pred, target = inputs
        # E[x^2] - E[x]^2 loses most digits in TF32, which GPUs use for float32 convolutions.
        return ssim(precise(pred), precise(target)).float()

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        return mean_and_std(rows["values"])
