"""The official path and call of LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saicinpainting.metrics.lpips import LPIPSScore

__all__ = ["PerceptualLoss"]


class PerceptualLoss(nn.Module):
    """LPIPS (VGG, linear) of images (B, 3, H, W): one number each, (B, 1, 1, 1).

    Args:
        net: `vgg`, as the paper's tables have it.
        weights_path: a file or an address of VGG16's weights, which are downloaded otherwise.
    """

    def __init__(
        self, model: str = "net-lin", net: str = "vgg", weights_path: str | Path | None = None, **_official: Any
    ) -> None:
        super().__init__()
        if (model, net) != ("net-lin", "vgg"):
            raise NotImplementedError(f"model={model!r}, net={net!r}: LPIPS is measured with net-lin and vgg alone")
        self.score = LPIPSScore(weights_path=weights_path)

    def forward(self, pred: Tensor, target: Tensor, normalize: bool = True) -> Tensor:
        """Images in [0, 1], or in [-1, 1] where not `normalize`."""
        return self.score.network(pred, target, normalize=normalize)
