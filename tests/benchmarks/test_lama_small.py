"""The judge of lama-small: its metrics, what it takes from an earlier file, its sheet."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from saicinpainting.losses.perceptual import StageFeatureLoss
from saicinpainting.networks.efficientnet_lite import EfficientNetLiteFeatures
from tests.helpers import ROOT, fill, photo


@pytest.fixture(scope="module")
def judge():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("lama_small", ROOT / "benchmarks" / "lama_small.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def case():
    image = photo("coffee.png", 64, 100)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 16:40] = 255
    filled = image.copy()
    noise = np.random.RandomState(0).randint(-40, 40, image.shape)
    filled[mask > 0] = (image + noise).clip(0, 255).astype(np.uint8)[mask > 0]
    return image, mask, filled


def test_metrics_are_of_the_hole_alone(judge):
    image, mask, filled = case()
    distance = StageFeatureLoss(fill(EfficientNetLiteFeatures("lite2")))
    row = judge.measured(distance, filled, image, mask)
    error = (filled[mask > 0] / 255.0) - (image[mask > 0] / 255.0)
    assert row["L1"] == pytest.approx(np.abs(error).mean(), abs=1e-6)
    assert row["PSNR"] == pytest.approx(-10 * np.log10(np.square(error).mean()), abs=1e-4)
    _, similarity = structural_similarity(
        filled / 255, image / 255, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert row["SSIM"] == pytest.approx(similarity[mask > 0].mean(), abs=0.003)  # their window has 11 pixels, too
    assert row["lite2"] > 0
    perfect = judge.measured(distance, image, image, mask)
    assert (perfect["L1"], perfect["SSIM"], perfect["lite2"]) == (0, pytest.approx(1), 0)


def test_cases_are_the_same_in_every_run_and_differ_by_seed(judge, tmp_path: Path):
    Image.fromarray(photo("astronaut.png", 300)).save(tmp_path / "a.png")
    first, again, other = (judge.draw(tmp_path, "a.png", size=256, kind="thick", seed=seed) for seed in (0, 0, 1))
    assert judge.digest(*first) == judge.digest(*again) != judge.digest(*other)
    image, mask = first
    assert image.shape == (256, 256, 3)
    assert set(np.unique(mask)) == {0, 255}


def test_classical_fills_of_an_earlier_file_are_taken_by_case_and_pixels(judge, tmp_path: Path):
    case = {"size": 256, "masks": "thin", "photograph": "a.png", "seed": 0, "crc": "01234567"}
    rows = [{"method": method, **case, "L1": 0.1} for method in ("Telea", "lama-small")]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    assert judge.earlier_rows(tmp_path / "rows.json") == {("Telea", *case.values()): rows[0]}
    assert judge.earlier_rows(tmp_path / "none.json") == {}


def test_mean_colour_is_that_of_the_known_part(judge):
    image, mask, _ = case()
    filled = judge.mean_colour(image, mask)
    assert (filled[mask == 0] == image[mask == 0]).all()
    assert (filled[mask > 0] == np.round(image[mask == 0].mean(axis=0))).all()
