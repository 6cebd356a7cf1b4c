"""The derivative of the Fréchet distance by the features, without automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from saicinpainting.metrics.fid import CHUNK, covariance_of

SMALLEST = 1e-10
"""Eigenvalues below this part of the largest count as zero: in their directions the derivative is unbounded."""


def first_order_contributions(pred: Tensor, target: Tensor) -> Tensor:
    """About how much lower FID would be, were each prediction as the original: (N,), for features (N, D), N > D.

    d of |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) by S1 is I - T, where T = S1^-1/2 (S1^1/2 S2 S1^1/2)^1/2 S1^-1/2 is
    the optimal transport map from N(0, S1) to N(0, S2) (Peyré and Cuturi 2019, remark 2.31), and by m1 is
    2 (m1 - m2).
    """
    count = len(pred)
    (m1, S1), (m2, S2) = covariance_of(pred), covariance_of(target)
    slope = torch.eye(len(m1), dtype=torch.float64) - _transport(S1, S2)
    changes = []
    for p, t in zip(pred.cpu().split(CHUNK), target.cpu().split(CHUNK), strict=True):
        p, t = p.double() - m1, t.double() - m1
        of_mean = 2 * ((p - t) @ (m1 - m2)) / count
        of_covariance = ((p @ slope) * p - (t @ slope) * t).sum(dim=1) / (count - 1)
        changes.append(of_mean + of_covariance)
    return torch.cat(changes)


def _transport(S1: Tensor, S2: Tensor) -> Tensor:
    root, inverse_root = _roots(S1)
    middle, _ = _roots(root @ S2 @ root)
    return inverse_root @ middle @ inverse_root


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root, and inverse square root where that is bounded, of a symmetric matrix that is not negative."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=0).sqrt()
    inverse = torch.where(values > SMALLEST * values[-1], 1 / roots, 0.0)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
