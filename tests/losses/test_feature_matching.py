"""Masked pixel losses and feature matching against golden values and by hand."""

from __future__ import annotations

import pytest
import torch

from saicinpainting.losses.feature_matching import (
    feature_matching_loss,
    masked_l1_loss,
    masked_l2_loss,
)
from tests.helpers import fill, golden_values, rand


@pytest.fixture(scope="module")
def features():
    from saicinpainting.networks import make_discriminator

    discriminator = fill(make_discriminator(**golden_values()["discriminator"])).eval()
    with torch.no_grad():
        return discriminator(rand(4, 2, 3, 64, 64))[1], discriminator(rand(5, 2, 3, 64, 64))[1]


def golden_mask():
    return (rand(6, 2, 1, 64, 64) > 0.6).float()


def test_masked_l1_is_golden():
    loss = masked_l1_loss(rand(4, 2, 3, 64, 64), rand(5, 2, 3, 64, 64), golden_mask(), 10, 0)
    expected = golden_values()["losses"]["masked_l1(known=10, missing=0)"]
    torch.testing.assert_close(loss.item(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("loss", "power"), [(masked_l1_loss, 1), (masked_l2_loss, 2)])
def test_masked_losses_weigh_each_pixel_by_its_side(loss, power):
    pred, target = torch.tensor([[[[1.0, 2.0, 5.0]]]]), torch.tensor([[[[0.0, 0.0, 1.0]]]])
    mask = torch.tensor([[[[0.0, 1.0, 0.5]]]])
    expected = (7 * 1 + 3 * 2**power + 5 * 4**power) / 3
    assert loss(pred, target, mask, weight_known=7, weight_missing=3).item() == pytest.approx(expected)


def test_feature_matching_is_golden(features):
    pred, real = features
    expected = golden_values()["losses"]
    torch.testing.assert_close(
        feature_matching_loss(pred, real).item(), expected["feature_matching"], rtol=1e-5, atol=0
    )
    masked = feature_matching_loss(pred, real, mask=golden_mask())
    torch.testing.assert_close(masked.item(), expected["feature_matching(mask)"], rtol=1e-5, atol=0)


def test_feature_matching_averages_maps_not_elements():
    fake = [torch.full((1, 2, 8, 8), 1.0), torch.full((1, 5, 2, 2), 3.0)]
    target = [torch.zeros_like(f) for f in fake]
    assert feature_matching_loss(fake, target).item() == pytest.approx((1 + 9) / 2)
    all_hole = torch.ones(1, 1, 16, 16)
    assert feature_matching_loss(fake, target, mask=all_hole).item() == 0


def test_feature_matching_refuses_lists_of_different_length():
    maps = [torch.zeros(1, 1, 2, 2)] * 2
    with pytest.raises(ValueError, match="shorter"):
        feature_matching_loss(maps, maps[:1])


def test_masked_feature_matching_of_half_precision_is_that_of_the_maps_in_float32():
    """A difference below 2**-13 has no square in float16, and one above 256 none that is finite."""
    for difference in (2.0**-14, 300.0):
        fake = torch.full((1, 2, 8, 8), difference, dtype=torch.float16)
        loss = feature_matching_loss([fake], [torch.zeros_like(fake)], mask=torch.zeros(1, 1, 8, 8))
        assert loss.item() == pytest.approx(difference**2)
