"""SSIM against the golden values and against the formula written with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from saicinpainting.metrics import SSIMScore
from saicinpainting.metrics.ssim import ssim
from tests.helpers import golden_values, rand


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """x, y: (C, H, W); eq. 13 of Wang et al. with a two-dimensional window."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return np.stack([convolve2d(channel, window, mode="same") for channel in image])

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_golden_values() -> None:
    pred, real = rand(4, 2, 3, 64, 64), rand(5, 2, 3, 64, 64)
    metric = SSIMScore()
    metric.update(pred, (pred + 0.2 * real) / 1.2)
    golden = golden_values()["losses"]["ssim"]
    torch.testing.assert_close(metric.values[0], torch.tensor(golden), atol=1e-5, rtol=0)
    total = metric.compute()["total"]
    assert total["mean"] == pytest.approx(np.mean(golden), abs=1e-5)
    assert total["std"] == pytest.approx(np.std(golden), abs=1e-5)


@pytest.mark.parametrize("size", [(40, 23), (7, 9)])
def test_equals_the_formula_also_below_the_window_size(size: tuple[int, int]) -> None:
    pred, target = rand(1, 2, 3, *size).double(), rand(2, 2, 3, *size).double()
    expected = [reference_ssim(x.numpy(), y.numpy()) for x, y in zip(pred, target, strict=True)]
    np.testing.assert_allclose(ssim(pred, target).numpy(), expected, rtol=1e-6)


def test_equal_images_score_one() -> None:
    image = rand(3, 1, 3, 32, 32)
    assert ssim(image, image).item() == pytest.approx(1, abs=1e-6)


def test_predictions_of_nan_make_the_mean_nan() -> None:
    """A model that diverges now and then must not look better for it."""
    image, metric = rand(3, 4, 3, 16, 16), SSIMScore()
    pred = image.clone()
    pred[1:] = float("nan")
    metric.update(pred, image, torch.tensor([0, 1, 1, 1]))
    result = metric.compute()
    assert result[0]["mean"] == pytest.approx(1)
    assert np.isnan([result["total"]["mean"], result["total"]["std"], result[1]["mean"]]).all()


def test_values_outside_the_range_are_clamped() -> None:
    target, pred = rand(1, 2, 3, 32, 32), rand(2, 2, 3, 32, 32) * 3 - 1
    metric, clamped = SSIMScore(), SSIMScore()
    metric.update(pred, target)
    clamped.update(pred.clamp(0, 1), target)
    assert metric.compute() == clamped.compute()
    assert ssim(pred, target).mean().item() != pytest.approx(metric.compute()["total"]["mean"], abs=1e-3)


def test_groups_have_their_own_statistics() -> None:
    pred, target = rand(1, 5, 3, 16, 16), rand(2, 5, 3, 16, 16)
    metric = SSIMScore()
    metric.update(pred[:2], target[:2], torch.tensor([3, 0]))
    metric.update(pred[2:], target[2:], torch.tensor([3, 3, 7]))
    values = ssim(pred, target).numpy()
    result = metric.compute()
    assert list(result) == ["total", 0, 3, 7]
    assert result[3]["mean"] == pytest.approx(values[[0, 2, 3]].mean(), abs=1e-6)
    assert result[3]["std"] == pytest.approx(values[[0, 2, 3]].std(), abs=1e-6)
    assert result[7] == {"mean": pytest.approx(values[4], abs=1e-6), "std": 0}


def test_mixed_precision_around_the_metric_does_not_change_it() -> None:
    pred, target = rand(1, 2, 3, 32, 32), rand(2, 2, 3, 32, 32)
    plain, inside = SSIMScore(), SSIMScore()
    plain.update(pred, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside.update(pred, target)
    assert plain.compute() == inside.compute()
