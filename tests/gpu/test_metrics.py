"""Metrics of the same images on the CPU and on the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.common import write_metric_networks
from saicinpainting.metrics.evaluator import make_evaluator
from saicinpainting.metrics.fid import frechet_distance
from tests.helpers import rand

IMAGES = 4


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_metric_networks(tmp_path_factory.mktemp("networks"))


def batches() -> list[dict[str, torch.Tensor]]:
    image = rand(1, IMAGES, 3, 64, 80)
    mask = torch.zeros(IMAGES, 1, 64, 80)
    for i in range(IMAGES):
        mask[i, :, 8 : 24 + 8 * i, 10:50] = 1
    inpainted = image * (1 - mask) + rand(2, IMAGES, 3, 64, 80) * mask
    parts = ({"image": image[i : i + 2], "mask": mask[i : i + 2], "inpainted": inpainted[i : i + 2]} for i in (0, 2))
    return list(parts)


@pytest.mark.costly
def test_all_metrics_equal_the_cpus(device: torch.device, networks: dict[str, Path]) -> None:
    results = []
    for where in (torch.device("cpu"), device):
        evaluator = make_evaluator(psnr=True, l1=True, lpips_weights=networks["lpips"], fid_weights=networks["fid"]).to(
            where
        )
        for batch in batches():
            evaluator.update({name: tensor.to(where) for name, tensor in batch.items()})
        results.append(evaluator.compute())
    expected, found = results
    assert {"ssim", "lpips", "fid", "psnr", "l1"} <= {metric for metric, _ in expected}
    assert found.keys() == expected.keys()
    for key, statistics in expected.items():
        for name, value in statistics.items():
            # The distance is a difference of traces that nearly cancel where there are few images.
            assert found[key][name] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), (key, name)


def test_the_frechet_distance_equals_the_cpus(device: torch.device) -> None:
    x, y = (rand(seed, 300, 256).double() @ rand(9, 256, 256).double() for seed in (1, 2))
    assert frechet_distance(x.to(device), y.to(device)) == pytest.approx(frechet_distance(x, y), rel=1e-6)
