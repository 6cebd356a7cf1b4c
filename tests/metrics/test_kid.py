"""KID against torchmetrics' formula on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from saicinpainting.metrics import FIDScore, make_metrics
from saicinpainting.metrics.evaluator import InpaintingEvaluator, make_evaluator, number_text
from saicinpainting.metrics.kid import kernel_distance
from saicinpainting.utils import InputError
from tests.helpers import rand
from tests.samples import features


@pytest.mark.parametrize("count", [2, 20, 300])
def test_a_small_set_is_compared_whole_as_torchmetrics_would(count: int) -> None:
    x, y = features(1, count, 64), features(2, count, 64) * 1.1
    assert kernel_distance(x, y) == pytest.approx(poly_mmd(y.double(), x.double()).item(), rel=1e-9)
    # torchmetrics alone chooses subsets in random order; one of all images has none.
    assert kernel_distance(x, y, subset_size=count) == kernel_distance(x, y)


def test_subsets_estimate_the_distance_of_all_images() -> None:
    x, y = features(1, 2000, 32), features(2, 2000, 32) + 0.2
    whole = poly_mmd(y.double(), x.double()).item()
    estimates = [kernel_distance(x, y, subset_size=100, seed=seed) for seed in range(2)]
    assert estimates == pytest.approx([whole, whole], rel=0.05)
    assert estimates[0] != estimates[1]
    assert kernel_distance(x, y, subset_size=100) == estimates[0]


def test_the_number_of_images_does_not_shift_the_mean() -> None:
    """Two halves of one distribution: about 0 for 20 images a time, where FID is far above."""
    x, y = (half.split(20) for half in features(1, 8000, 32).chunk(2))
    values = np.array([kernel_distance(a, b) for a, b in zip(x, y, strict=True)])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert (values < 0).any()


def test_nan_features_give_nan() -> None:
    x = features(1, 5, 8)
    assert np.isnan(kernel_distance(x, x * float("nan")))


def test_kid_is_a_score_of_its_own_in_every_group() -> None:
    metric = FIDScore(network=torch.nn.Flatten(), features=1200, kid=True)
    evaluator = InpaintingEvaluator(metrics={"fid": metric}, integral_kind=None)
    pred, target = rand(1, 9, 3, 20, 20), rand(2, 9, 3, 20, 20)
    mask = torch.zeros(9, 1, 20, 20)
    mask[4:, :, :10] = 1
    evaluator.update({"image": target, "inpainted": pred, "mask": mask})
    results = evaluator.compute()
    for group, chosen in {"total": slice(None), "0-10%": slice(4), "50-60%": slice(4, None)}.items():
        x, y = (images[chosen].flatten(1).double() for images in (pred, target))
        assert results["kid", group] == {"mean": pytest.approx(poly_mmd(x, y).item(), rel=1e-6)}


def test_kid_is_asked_for_with_fid() -> None:
    with pytest.raises(InputError, match=r"kid: KID is .* switch fid on"):
        make_metrics(ssim=False, lpips=False, fid=False, kid=True)
    with pytest.raises(InputError, match=r"evaluator\.kid: .* set evaluator\.fid=true"):
        make_evaluator(lpips=False, fid=False, kid=True)


def test_small_numbers_keep_their_digits_in_tables() -> None:
    assert [number_text(value) for value in (0.00123456, -0.0042, 0.0, 0.0123, 12)] == [
        "0.001235", "-0.004200", "0.0000", "0.0123", "12.0000",
    ]  # fmt: skip
