"""Fréchet inception distance (Heusel et al. 2017), and other scores of the same features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from saicinpainting.io.weights import weights_file
from saicinpainting.metrics.base import NetworkMetric, Row, Statistics
from saicinpainting.metrics.inception import FEATURES, INCEPTION_URL, WHAT, FIDInception
from saicinpainting.metrics.kid import kernel_distance

LOGGER = logging.getLogger(__name__)
CHUNK = 2048


class FIDScore(NetworkMetric):
    """FID between the predictions and the targets; a group needs two images to have one.

    `weights_path`: pytorch-fid's Inception, a file or an address (None: the one where pytorch-fid keeps it; fetched if
    it is not there).
    `ids`: the statistics hold `p_ids` and `u_ids` besides, see `discriminative_scores`.
    `kid`: they hold `kid`, see `kernel_distance`.
    `network`: another one than Inception, (B, 3, H, W) in [0, 1] -> (B, features).
    """

    higher_is_better = False
    packages = ("pytorch-fid", "torchvision")
    least_images = 2

    def __init__(
        self,
        *,
        weights_path: str | Path | None = None,
        ids: bool = False,
        kid: bool = False,
        network: nn.Module | None = None,
        features: int = FEATURES,
    ) -> None:
        weights: list[Path] = []
        if network is None:
            weights = [weights_file(weights_path, INCEPTION_URL, what=WHAT)]
            network = FIDInception(weights[0])
        rows = {f"{side}_features": Row((side,), (features,)) for side in ("pred", "target")}
        super().__init__(network, rows=rows, weights=weights)
        self.ids, self.kid = ids, kid
        self._warned = False

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        count, dims = rows["pred_features"].shape
        if count < self.least_images:
            return {}
        if count < dims and not self._warned:
            self._warned = True
            LOGGER.warning(
                "FID of %d images: below %d the covariances are singular and the value is biased upwards; "
                "compare it only with values from the same number of images",
                count,
                dims,
            )
        statistics = {"mean": frechet_distance(rows["pred_features"], rows["target_features"])}
        if self.ids:
            statistics |= discriminative_scores(rows["pred_features"], rows["target_features"])
        if self.kid:
            statistics["kid"] = kernel_distance(rows["pred_features"], rows["target_features"])
        return statistics


def frechet_distance(features1: Tensor, features2: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features, (N1, D) and (N2, D); NaN if they hold NaN."""
    return Gaussian.of(features1).distance(Gaussian.of(features2))


@dataclass(frozen=True)
class Gaussian:
    """mean: (D,); factor: at most (D, D), factor^T factor is the covariance; float64 on the CPU."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Fitted to features (N, D), N > 1."""
        count, dims = features.shape
        if count <= dims:
            features = features.cpu().double()
            mean = features.mean(dim=0)
            return cls(mean, (features - mean) / (count - 1) ** 0.5)
        mean, covariance = covariance_of(features)
        if not torch.isfinite(covariance).all():
            return cls(mean, covariance)
        values, vectors = torch.linalg.eigh(covariance)
        return cls(mean, values.clamp(min=0).sqrt()[:, None] * vectors.T)

    def distance(self, other: Gaussian) -> float:
        """Heusel et al. 2017, eq. 6: |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)).

        With S_i = A_i^T A_i the eigenvalues of S1 S2 are the squared singular values of A1 A2^T, so the last trace is
        the sum of these. That needs no root of a matrix, which fails or turns complex where the covariances are
        singular (fewer images than D).
        """
        product = self.factor @ other.factor.T
        if not torch.isfinite(product).all():
            return float("nan")
        traces = self.factor.square().sum() + other.factor.square().sum()
        trace_of_root = torch.linalg.svdvals(product).sum()
        return max(0.0, ((self.mean - other.mean).square().sum() + traces - 2 * trace_of_root).item())


def covariance_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of (N, D) features, in float64 on the CPU; without a second copy of them all.

    Summed where the features are. Eigenvalues are for the CPU, where one method gives them on every machine.
    """
    if features.device.type == "mps":  # knows no float64
        features = features.cpu()
    mean = features.mean(dim=0, dtype=torch.float64)
    covariance = mean.new_zeros(len(mean), len(mean))
    for part in features.split(CHUNK):
        centred = part.double() - mean
        covariance.addmm_(centred.T, centred)
    return mean.cpu(), covariance.cpu() / (len(features) - 1)


def discriminative_scores(pred: Tensor, target: Tensor) -> Statistics:
    """P-IDS and U-IDS (Zhao et al. 2021) of paired features (N, D), in [0, 1], higher is better.

    A linear support vector machine learns to tell real from filled images. `u_ids`: the share of all images that it
    takes for the other kind. `p_ids`: the share of pairs in which the filled image looks more real to it than the
    real one. The fewer the images, the better they can be told apart, down to scores near 0: only those of equally
    many images compare.
    """
    from sklearn.svm import LinearSVC

    features = torch.cat([target, pred]).cpu().numpy()
    if not torch.isfinite(pred).all() or not torch.isfinite(target).all():
        return {"p_ids": float("nan"), "u_ids": float("nan")}
    real = [1] * len(target) + [0] * len(pred)
    # The settings of the authors of CoModGAN; with dual=False there is no random order.
    judge = LinearSVC(dual=False).fit(features, real)
    realness = judge.decision_function(features)
    of_target, of_pred = realness[: len(target)], realness[len(target) :]
    return {"p_ids": float((of_pred > of_target).mean()), "u_ids": 1 - float(judge.score(features, real))}
