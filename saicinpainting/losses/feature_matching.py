"""Pixel losses that tell the hole from its surroundings, and feature matching on discriminator maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from saicinpainting.networks.base import at_least_float32


def masked_l1_loss(pred: Tensor, target: Tensor, mask: Tensor, weight_known: float, weight_missing: float) -> Tensor:
    """Mean |pred - target|, known pixels and hole weighed apart.

    pred, target: (B, C, H, W); mask: (B, 1, H, W), 1 = hole. The mean runs over all elements.
    """
    return (_pixel_weights(mask, weight_known, weight_missing) * (pred - target).abs()).mean()


def masked_l2_loss(pred: Tensor, target: Tensor, mask: Tensor, weight_known: float, weight_missing: float) -> Tensor:
    """Mean (pred - target)², known pixels and hole weighed apart; shapes as in `masked_l1_loss`."""
    return (_pixel_weights(mask, weight_known, weight_missing) * (pred - target).square()).mean()


def _pixel_weights(mask: Tensor, weight_known: float, weight_missing: float) -> Tensor:
    return mask * weight_missing + (1 - mask) * weight_known


def feature_matching_loss(
    fake_features: Sequence[Tensor], target_features: Sequence[Tensor], mask: Tensor | None = None
) -> Tensor:
    """Mean over the maps of their mean squared difference (pix2pixHD, Wang et al. 2018, eq. 4, with L2).

    fake_features, target_features: maps (B, C_k, H_k, W_k); mask: (B, 1, H, W), 1 = hole. With a mask, the
    squared differences of each map weigh 1 - mask, so that only what surrounds the hole is matched.
    """
    per_map = [
        _matching_of_map(fake, target, mask) for fake, target in zip(fake_features, target_features, strict=True)
    ]
    return torch.stack(per_map).mean()


def _matching_of_map(fake: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return F.mse_loss(fake, target)
    mask = F.interpolate(mask, size=fake.shape[-2:], mode="bilinear", align_corners=False)
    difference = at_least_float32(fake) - at_least_float32(target)  # as autocast lets mse_loss have it
    return (difference.square() * (1 - mask)).mean()
