"""Kernel inception distance (Bińkowski et al. 2018): the features of FID, compared without fitting a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from saicinpainting.metrics.base import precise

SUBSETS, SUBSET_SIZE = 100, 1000
"""As in the paper's experiments and most published values."""


def kernel_distance(
    pred: Tensor, target: Tensor, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> float:
    """KID of features (N, D), N > 1: the mean of `polynomial_mmd` over random subsets; NaN if they hold NaN.

    Sets of `subset_size` images and fewer are compared whole, once: its expectation does not depend on their number,
    so that twenty images have a value that is noisy, not biased as FID's is. Predictions of the same photographs as
    the targets are more alike than independent ones: the value is a little lower for it, by 1/N, and may be below 0.
    """
    count = len(pred)
    if count <= subset_size:
        return polynomial_mmd(pred, target)
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        # Drawn apart: a subset of the same photographs twice would hold all its pairs.
        of_pred, of_target = (torch.randperm(count, generator=rng)[:subset_size] for _ in range(2))
        values.append(polynomial_mmd(pred[of_pred.to(pred.device)], target[of_target.to(target.device)]))
    return sum(values) / subsets


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) of features (N, D), N > 1.

    The kernel is (<a, b> / D + 1)^3 (Bińkowski et al. 2018, section 4).
    """
    x, y = precise(x), precise(y)
    return (_off_diagonal_mean(_kernel(x, x)) + _off_diagonal_mean(_kernel(y, y)) - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))
