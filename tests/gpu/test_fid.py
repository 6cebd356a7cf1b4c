"""FID of features on a GPU."""

from __future__ import annotations

import pytest
import torch

from saicinpainting.metrics.fid import covariance_of, frechet_distance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("count", [5000, 40])  # more than features, and fewer
def test_the_distance_of_features_on_a_gpu_is_that_on_the_cpu(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(256, 256, generator=generator) / 16
    x, y = (torch.randn(count, 256, generator=generator) @ mixing + shift for shift in (0.3, 0.0))
    assert frechet_distance(x.cuda(), y.cuda()) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    for on_gpu, on_cpu in zip(covariance_of(x.cuda()), covariance_of(x), strict=True):
        assert on_gpu.device.type == "cpu"
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-9, atol=1e-12)
