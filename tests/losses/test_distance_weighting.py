"""Weighed masks, against SciPy's filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from saicinpainting.losses.distance_weighting import make_mask_distance_weighter
from saicinpainting.utils import InputError


@pytest.fixture
def mask() -> torch.Tensor:
    mask = np.zeros((2, 1, 40, 48), np.float32)
    mask[0, 0, 10:30, 12:40] = 1
    mask[0, 0, 20, 20] = 0  # one known pixel makes no edge
    mask[1, 0, 25:, :20] = 1  # touches the border
    return torch.from_numpy(mask)


def gaussian(size: int, width_factor: float) -> np.ndarray:
    row = np.exp(-((np.arange(size) - size // 2) ** 2) / (size * width_factor))
    return np.outer(row, row) / row.sum() ** 2


def test_blur_is_the_gaussian_of_the_mask_inside_the_hole(mask: torch.Tensor):
    weighed = make_mask_distance_weighter({"kind": "blur", "kernel_size": 7, "width_factor": 2})(mask)
    for result, hole in zip(weighed[:, 0].numpy(), mask[:, 0].numpy(), strict=True):
        expected = ndimage.correlate(hole, gaussian(7, 2), mode="nearest") * hole
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_edt_is_the_gaussian_of_the_hole_without_its_margin(mask: torch.Tensor):
    weighed = make_mask_distance_weighter({"kind": "edt", "dilate_kernel_size": 9, "blur_kernel_size": 5})(mask)
    for result, hole in zip(weighed[:, 0].numpy(), mask[:, 0].numpy(), strict=True):
        known = ndimage.correlate(1 - hole, np.ones((9, 9)), mode="nearest") > 1
        expected = ndimage.correlate((~known).astype(float), gaussian(5, 1), mode="nearest") * hole
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert float(weighed[0, 0, 20, 26]) == pytest.approx(1)
    assert float(weighed[0, 0, 10, 26]) == 0  # the edge


def test_no_weighing_is_none():
    assert make_mask_distance_weighter(None) is None
    assert make_mask_distance_weighter({"kind": "none"}) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "blur", "kernel_size": 4}, r"distance_weighter_kwargs\.kernel_size: expected an odd number, got 4"),
        ({"kind": "edt", "kernel_size": 5}, r"kernel_size: unknown config key"),
        ({"kind": "bluer"}, "unknown kind 'bluer'"),
        ({"kind": "pps"}, "kind=pps .*is not supported; use blur or edt"),
    ],
)
def test_impossible_weighing_is_found_when_the_config_is_read(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        make_mask_distance_weighter(settings)
