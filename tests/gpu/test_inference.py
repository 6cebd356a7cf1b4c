"""Filling holes on the device: as on the CPU, in half precision near it, refinement with the official numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.refinement import refine_predict
from saicinpainting.networks import make_generator
from tests.helpers import fill, golden_arrays, golden_values, rand
from tests.samples import Inpainter as Refined
from tests.samples import golden_picture, in_float32

CPU = torch.device("cpu")


def generator() -> nn.Module:
    return fill(make_generator(**golden_values()["ffc"])).eval()


def image_and_mask(height: int, width: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    return rand(4, batch, 3, height, width), mask


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as trained"])
@pytest.mark.parametrize("size", [(96, 128), (99, 131)], ids=str)
def test_images_are_filled_as_on_the_cpu(device: torch.device, size: tuple[int, int], fold: bool) -> None:
    image, mask = image_and_mask(*size, batch=2)
    expected = Inpainter(generator(), device=CPU, fold=fold)(image, mask)
    inpainter = Inpainter(generator(), device=device, fold=fold)
    result = inpainter(image, mask)  # comes back to where the image is
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-5)
    there = inpainter(image.to(device), mask.to(device))
    assert there.device == device
    torch.testing.assert_close(there.cpu(), expected, rtol=0, atol=5e-5)
    known = (mask == 0).expand_as(image)
    assert torch.equal(result[known], image[known])
    assert torch.equal(there.cpu()[known], image[known])


def test_pixels_are_filled_as_on_the_cpu(device: torch.device) -> None:
    image, mask = image_and_mask(99, 131)
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    hole = mask[0, 0].numpy().astype(np.uint8)
    expected, found = (Inpainter(generator(), device=where)(pixels, hole) for where in (CPU, device))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1  # a half may be rounded either way
    assert np.array_equal(found[hole == 0], pixels[hole == 0])


def test_sizes_one_after_the_other_are_filled_as_each_is_alone(device: torch.device) -> None:
    """Also those that come again, whatever was kept of them."""
    inpainter = Inpainter(generator(), device=device)
    sizes = [(96, 128), (64, 64), (96, 128), (99, 131), (96, 128), (64, 64), (96, 128)]
    for number, size in enumerate(sizes):
        image, mask = image_and_mask(*size)
        image = image.roll(number, dims=-1)
        expected = Inpainter(generator(), device=CPU)(image, mask)
        torch.testing.assert_close(inpainter(image, mask), expected, rtol=0, atol=5e-5)


def psnr(result: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor) -> float:
    inside = mask.expand_as(result) > 0
    return float(-10 * (result - expected)[inside].square().mean().log10())


@pytest.mark.parametrize(("precision", "decibels"), [("bf16", 35), ("fp16", 50)])
def test_half_precision_is_near(device: torch.device, precision: str, decibels: float) -> None:
    image, mask = image_and_mask(96, 128)
    expected = Inpainter(generator(), device=CPU)(image, mask)
    result = Inpainter(generator(), device=device, precision=precision)(image, mask)
    assert psnr(result, expected, mask) > decibels


def with_extreme_norms(network: nn.Module) -> nn.Module:
    """The same function with running variances of up to millions, as trained networks have them."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            scale = 10 ** (3 * torch.linspace(0, 1, norm.num_features))
            assert norm.running_var is not None
            norm.weight.data *= scale
            norm.running_var.data = (norm.running_var + norm.eps) * scale**2 - norm.eps
    return network


@pytest.mark.parametrize(("precision", "decibels"), [("bf16", 35), ("fp16", 50)])
def test_extreme_statistics_of_norms_do_not_spoil_half_precision(
    device: torch.device, precision: str, decibels: float
) -> None:
    image, mask = image_and_mask(96, 128)
    expected = Inpainter(generator(), device=CPU)(image, mask)
    extreme = with_extreme_norms(generator())
    assert max(float(b.max()) for n, b in extreme.named_buffers() if n.endswith("running_var")) > 1e5
    result = Inpainter(extreme, device=device, precision=precision)(image, mask)
    assert psnr(result, expected, mask) > decibels


@pytest.mark.costly
@pytest.mark.parametrize("folded", [False, True], ids=["as trained", "folded"])
def test_refinement_is_golden(device: torch.device, folded: bool) -> None:
    inpainter = Refined("ffc", folded=folded).to(device)
    settings = {key: value for key, value in golden_values()["refine"].items() if key != "pyramid"}
    result = refine_predict(golden_picture(), inpainter, **settings, device=str(device))
    assert (result.cpu() - golden_arrays()["refine.refined"]).abs().max() < 1e-5


@pytest.mark.costly
@pytest.mark.parametrize(("precision", "decibels"), [("fp32", 55), ("bf16", 45), ("fp16", 50)])
def test_refinement_in_less_precision_is_near(device: torch.device, precision: str, decibels: float) -> None:
    batch, short = in_float32(golden_picture()), {"n_iters": 2, "min_side": 96}
    expected = refine_predict(batch, Refined("ffc", folded=True).float(), **short)
    inpainter: Any = Refined("ffc", folded=True).float().to(device)
    result = refine_predict(batch, inpainter, **short, precision=precision, device=str(device))
    assert psnr(result.cpu().float(), expected, batch["mask"]) > decibels
