"""Fills beside one another: their figures against scikit-image's, the sheet that shows them."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from saicinpainting.evaluation.comparison import contact_sheet, fill_with_mean_colour, markdown, measure_fill
from saicinpainting.losses.perceptual import StageFeatureLoss
from saicinpainting.networks.efficientnet_lite import EfficientNetLiteFeatures
from tests.helpers import fill, photo


def case():
    image = photo("coffee.png", 64, 100)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 16:40] = 255
    filled = image.copy()
    noise = np.random.RandomState(0).randint(-40, 40, image.shape)
    filled[mask > 0] = (image + noise).clip(0, 255).astype(np.uint8)[mask > 0]
    return image, mask, filled


def test_metrics_are_of_the_hole_alone():
    image, mask, filled = case()
    distance = StageFeatureLoss(fill(EfficientNetLiteFeatures("lite2")))
    row = measure_fill(filled, image, mask, distance)
    error = (filled[mask > 0] / 255.0) - (image[mask > 0] / 255.0)
    assert row["L1"] == pytest.approx(np.abs(error).mean(), abs=1e-6)
    assert row["PSNR"] == pytest.approx(-10 * np.log10(np.square(error).mean()), abs=1e-4)
    _, similarity = structural_similarity(
        filled / 255, image / 255, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert row["SSIM"] == pytest.approx(similarity[mask > 0].mean(), abs=0.003)  # their window has 11 pixels, too
    assert row["lite2"] > 0
    perfect = measure_fill(image, image, mask, distance)
    assert (perfect["L1"], perfect["SSIM"], perfect["lite2"]) == (0, pytest.approx(1), 0)


def test_mean_colour_is_that_of_the_known_part():
    image, mask, _ = case()
    filled = fill_with_mean_colour(image, mask)
    assert (filled[mask == 0] == image[mask == 0]).all()
    assert (filled[mask > 0] == np.round(image[mask == 0].mean(axis=0))).all()


def test_a_table_has_a_column_for_each_key() -> None:
    rows = [{"set": "thick", "L1": 0.12345, "SSIM": 0.5}, {"set": "thin", "L1": 1.0, "SSIM": 0.25}]
    expected = ["| set | L1 | SSIM |", "|---|---|---|", "| thick | 0.1235 | 0.500 |", "| thin | 1.0000 | 0.250 |"]
    assert markdown(rows).splitlines() == expected


def test_the_sheet_shows_each_image_in_its_cell_and_keeps_proportions() -> None:
    red, wide = np.full((40, 40, 3), (255, 0, 0), np.uint8), np.full((20, 40, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet(["a", "b"], [[red, wide]], cell=44, labels=["first"])
    assert sheet.shape == (18 + 44, 90 + 2 * 44, 3)
    assert (sheet[18 : 18 + 40, 90 : 90 + 40] == (255, 0, 0)).all()
    assert (sheet[18 : 18 + 20, 134 : 134 + 40] == (0, 0, 255)).all()
    assert (sheet[18 + 20 :, 134:] == 255).all()
