"""The official path and calls of metrics by set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from saicinpainting import metrics
from saicinpainting.metrics.base import TOTAL, ImageMetric, Statistics, precise
from saicinpainting.metrics.ssim import ssim

__all__ = ["EvaluatorScore", "FIDScore", "LPIPSScore", "PairwiseScore", "SSIMScore"]


class EvaluatorScore(nn.Module):
    """What a score of one's own derives from: called with each batch of images and asked for its value at the end.

    It has `forward(pred_batch, target_batch, mask)`, `get_value(groups, states)` and `reset()` as `KeptScore` has them.
    """


class KeptScore(ImageMetric, EvaluatorScore):
    """A metric of ours, which keeps a row of each image."""

    def forward(self, pred_batch: Tensor, target_batch: Tensor, mask: Tensor | None = None) -> Any:
        """Add a batch of images (B, 3, H, W) in [0, 1]; what is kept of each image, (B, …)."""
        images = {"pred": pred_batch, "target": target_batch, "mask": mask}
        with torch.no_grad():
            rows = {name: self.measured(name, images) for name in self.rows}
        self.append(rows)
        return tuple(rows.values()) if len(rows) > 1 else next(iter(rows.values()))

    def get_value(
        self, groups: np.ndarray | None = None, states: Any = None
    ) -> tuple[Statistics, dict[Any, Statistics] | None]:
        """The statistics of all images, and with `groups`, a number for each image in order, of every group.

        states: what `forward` returned for each batch, in place of what was kept.
        """
        if states is not None:
            self.reset()
            for state in states:
                self.append(dict(zip(self.rows, state if isinstance(state, tuple) else (state,), strict=True)))
        if groups is not None:
            self.groups = [torch.as_tensor(np.asarray(groups), dtype=torch.int64, device=self.device)]
        self._computed = None
        results = dict(self.compute())
        total = results.pop(TOTAL, {"mean": float("nan")})
        return total, None if groups is None else results


class PairwiseScore(EvaluatorScore):
    """What a score of one's own by image derives from: its `forward` adds a number of each image to
    `individual_values`, and returns them, (B,)."""

    individual_values: Any = None

    def get_value(
        self, groups: np.ndarray | None = None, states: Any = None
    ) -> tuple[Statistics, dict[Any, Statistics] | None]:
        """As of `KeptScore`."""
        values = np.asarray(self.individual_values) if states is None else torch.cat(states, dim=-1).cpu().numpy()
        total = _mean_and_std(values)
        if groups is None:
            return total, None
        return total, {group: _mean_and_std(values[groups == group]) for group in np.unique(groups).tolist()}

    def reset(self) -> None:
        self.individual_values = []


def _mean_and_std(values: np.ndarray) -> Statistics:
    return {"mean": float(values.mean()), "std": float(values.std())}


class SSIMScore(metrics.SSIMScore, KeptScore):
    """SSIM; window_size: pixels of its window's side."""

    def __init__(self, window_size: int = 11) -> None:
        super().__init__()
        self.window_size = window_size

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        pred, target = inputs
        return ssim(precise(pred), precise(target), window_size=self.window_size).float()


class LPIPSScore(metrics.LPIPSScore, KeptScore):
    """LPIPS; weights_path: a file or an address of VGG16's weights, which are downloaded otherwise."""

    def __init__(
        self, model: str = "net-lin", net: str = "vgg", weights_path: str | Path | None = None, **_official: Any
    ) -> None:
        if (model, net) != ("net-lin", "vgg"):
            raise NotImplementedError(f"model={model!r}, net={net!r}: LPIPS is measured with net-lin and vgg alone")
        super().__init__(weights_path=weights_path)


class FIDScore(metrics.FIDScore, KeptScore):
    """FID; weights_path: a file or an address of Inception's weights, which are downloaded otherwise."""

    def __init__(self, dims: int = 2048, eps: float = 1e-6, weights_path: str | Path | None = None) -> None:
        if dims != 2048:
            raise NotImplementedError(f"dims={dims}: FID is measured with 2048 alone")
        super().__init__(weights_path=weights_path)


def _no_class_metric(name: str, *_arguments: Any, **_official: Any) -> NoReturn:
    raise NotImplementedError(f"{name}: metrics by class are those of bin/evaluate_predicts.py --metrics segm")


SegmentationClassStats, SegmentationAwareSSIM, SegmentationAwareLPIPS, SegmentationAwareFID = (
    partial(_no_class_metric, name)
    for name in ("SegmentationClassStats", "SegmentationAwareSSIM", "SegmentationAwareLPIPS", "SegmentationAwareFID")
)
