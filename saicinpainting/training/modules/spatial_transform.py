"""The official path of layers in a rotated frame: our networks have none, copies of the official ffc.py import it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnableSpatialTransformWrapper(nn.Module):
    """Turns maps (B, C, H, W), or a pair of them, by an angle, calls `impl`, and turns the result back.

    Args:
        pad_coef: what reflected borders add on each side, as a share of it.
        angle_init_range: the angle is drawn from 0 to this, in degrees.
        train_angle: whether it is a parameter.
    """

    def __init__(
        self, impl: nn.Module, pad_coef: float = 0.5, angle_init_range: float = 80, train_angle: bool = True
    ) -> None:
        super().__init__()
        self.impl, self.pad_coef = impl, pad_coef
        angle = torch.rand(1) * angle_init_range
        self.angle = nn.Parameter(angle) if train_angle else angle

    def forward(self, x: Any) -> Any:
        maps = x if isinstance(x, tuple) else (x,)
        turned = tuple(map(self.transform, maps))
        results = self.impl(turned if isinstance(x, tuple) else turned[0])
        if not isinstance(x, tuple):
            return self.inverse_transform(results, x)
        return tuple(map(self.inverse_transform, results, maps))

    def _borders(self, x: Tensor) -> tuple[int, int]:
        height, width = (int(side * self.pad_coef) for side in x.shape[2:])
        return height, width

    def transform(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with its borders, turned."""
        from kornia.geometry.transform import rotate  # half a second that few need

        rows, columns = self._borders(x)
        return rotate(F.pad(x, (columns, columns, rows, rows), mode="reflect"), self.angle.to(x))

    def inverse_transform(self, y: Tensor, x: Tensor) -> Tensor:
        """What was made of `transform(x)`, turned back and without the borders of `x`."""
        from kornia.geometry.transform import rotate

        rows, columns = self._borders(x)
        return rotate(y, -self.angle.to(y))[:, :, rows : y.shape[2] - rows, columns : y.shape[3] - columns]
