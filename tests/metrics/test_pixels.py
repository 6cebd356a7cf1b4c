"""PSNR and L1 against scikit-image and by hand, of the image and of the hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from saicinpainting.metrics import L1Score, PSNRScore
from saicinpainting.metrics.base import ImageMetric
from saicinpainting.metrics.pixels import MAX_PSNR
from tests.helpers import photo, rand


def mean_of(metric: ImageMetric, *images: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    metric.update(*images, mask=mask)
    return metric.compute()["total"]["mean"]


def test_psnr_equals_scikit_image() -> None:
    image = torch.tensor(photo()).permute(2, 0, 1)[None] / 255
    noisy = (image + 0.1 * (rand(1, 1, 3, 64, 64) - 0.5)).clamp(0, 1)
    expected = peak_signal_noise_ratio(image.numpy(), noisy.numpy(), data_range=1)
    assert mean_of(PSNRScore(), noisy, image) == pytest.approx(expected, rel=1e-5)


def test_only_the_hole_counts() -> None:
    image, mask = rand(1, 2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[:, :, :2] = 1
    pred = image.clone()
    pred[:, :, :2] = (image[:, :, :2] + 0.25).where(image[:, :, :2] < 0.5, image[:, :, :2] - 0.25)
    pred[:, :, 2:] = rand(2, 2, 3, 6, 8)
    assert mean_of(L1Score(hole=True), pred, image, mask=mask) == pytest.approx(0.25, rel=1e-6)
    assert mean_of(PSNRScore(hole=True), pred, image, mask=mask) == pytest.approx(-20 * np.log10(0.25), rel=1e-6)
    assert mean_of(L1Score(), pred, image) == pytest.approx((pred - image).abs().mean().item(), rel=1e-5)


def test_images_without_a_hole_are_left_out() -> None:
    image, mask = rand(1, 2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[1] = 1
    metric = L1Score(hole=True)
    metric.update(image * 0.5, image, torch.tensor([0, 9]), mask)
    result = metric.compute()
    assert result["total"] == result[9] == {"mean": pytest.approx(image[1].mean().item() / 2), "std": 0}
    assert 0 not in result


@pytest.mark.parametrize("hole", [False, True])
@pytest.mark.parametrize("score", [L1Score, PSNRScore])
def test_predictions_of_nan_make_the_score_nan(score: type, hole: bool) -> None:
    """An image without a hole has no score of it; a prediction that is NaN has a bad one, not none."""
    image, mask = rand(1, 3, 3, 8, 8), torch.ones(3, 1, 8, 8)
    mask[2] = 0
    pred = image.clone()
    pred[1] = float("nan")
    metric = score(hole=hole)
    metric.update(pred, image, torch.tensor([0, 1, 2]), mask)
    result = metric.compute()
    assert np.isnan(result["total"]["mean"])
    assert np.isfinite(result[0]["mean"])
    assert np.isnan(result[1]["mean"])
    assert (2 in result) is not hole


def test_equal_images_do_not_make_the_mean_infinite() -> None:
    image = rand(1, 1, 3, 8, 8)
    assert mean_of(PSNRScore(), image, image) == MAX_PSNR


def test_the_hole_needs_masks() -> None:
    with pytest.raises(ValueError, match="PSNRScore needs the masks"):
        PSNRScore(hole=True).update(rand(1, 1, 3, 8, 8), rand(2, 1, 3, 8, 8))


def test_rows_added_after_a_result_count_in_the_next(recwarn: pytest.WarningsRecorder) -> None:
    metric, updated = L1Score(), L1Score()
    for value in (0.25, 0.75):
        metric.append({"values": torch.tensor([value])})
        updated.update(torch.full((1, 3, 4, 4), value), torch.zeros(1, 3, 4, 4))
        assert metric.compute() == updated.compute()
    assert metric.compute()["total"]["mean"] == 0.5
    assert not recwarn.list  # torchmetrics warns of results without images
