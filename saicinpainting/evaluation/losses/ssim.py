"""The official path and call of SSIM."""

from __future__ import annotations

from torch import Tensor, nn

from saicinpainting.metrics.ssim import ssim

__all__ = ["SSIM"]


class SSIM(nn.Module):
    """SSIM of images (B, C, H, W) in [0, 1]: their mean, or with `size_average=False` one number each."""

    def __init__(self, window_size: int = 11, size_average: bool = True) -> None:
        super().__init__()
        self.window_size, self.size_average = window_size, size_average

    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:
        values = ssim(img1, img2, window_size=self.window_size)
        return values.mean() if self.size_average else values
