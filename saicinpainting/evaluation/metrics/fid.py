"""Fréchet inception distance (Heusel et al. 2017)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from saicinpainting.evaluation.metrics.base import NetworkMetric, Statistics
from saicinpainting.evaluation.metrics.inception import FEATURES, INCEPTION_URL, WHAT, FIDInception
from saicinpainting.weights import fetch_weights, torch_home

LOGGER = logging.getLogger(__name__)


class FIDScore(NetworkMetric):
    """FID between the predictions and the targets; a group needs two images to have one.

    `weights_path`: pytorch-fid's Inception (default: where pytorch-fid keeps it; fetched if it is not there).
    """

    higher_is_better = False

    def __init__(self, *, weights_path: str | Path | None = None) -> None:
        path = weights_path or torch_home() / "hub" / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[1]
        network = FIDInception(fetch_weights(path, INCEPTION_URL, what=WHAT))
        super().__init__(network, row_shapes={"pred_features": (FEATURES,), "target_features": (FEATURES,)})
        self._warned = False

    def measure(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"pred_features": self.network(pred), "target_features": self.network(target)}

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        pred, target = rows["pred_features"], rows["target_features"]
        if len(pred) < 2:
            return {}
        if len(pred) < FEATURES and not self._warned:
            self._warned = True
            LOGGER.warning(
                "FID of %d images: below %d the covariances are singular and the value is biased upwards; "
                "compare it only with values from the same number of images",
                len(pred),
                FEATURES,
            )
        return {"mean": frechet_distance(pred, target)}


def frechet_distance(features1: Tensor, features2: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features, (N1, D) and (N2, D); NaN if they hold NaN.

    Heusel et al. 2017, eq. 6: |mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)). With S_i = A_i^T A_i the eigenvalues
    of S1 S2 are the squared singular values of A1 A2^T, so the last trace is the sum of these. That needs no
    root of a matrix, which fails or turns complex where the covariances are singular (fewer images than D).
    """
    mu1, A1 = _mean_and_factor(features1)
    mu2, A2 = _mean_and_factor(features2)
    product = A1 @ A2.T
    if not torch.isfinite(product).all():
        return float("nan")
    trace_of_root = torch.linalg.svdvals(product).sum()
    distance = (mu1 - mu2).square().sum() + A1.square().sum() + A2.square().sum() - 2 * trace_of_root
    return max(0.0, distance.item())


def _mean_and_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of (N, D) features and A, at most (D, D), with A^T A their covariance, in float64 on the CPU."""
    features = features.cpu().double()
    mean = features.mean(dim=0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    if factor.shape[0] > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return mean, factor
