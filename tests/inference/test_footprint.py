"""What a network takes of the memory, counted without computing it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.footprint import MEASURED, SIDES, Memory, count_memory
from saicinpainting.networks.fourier import set_fft_backend
from tests.helpers import rand
from tests.samples import generator


def test_tensors_are_counted_as_they_come_and_go() -> None:
    network = nn.Sequential(nn.Conv2d(4, 64, 1), nn.ReLU(), nn.Conv2d(64, 3, 1))
    memory = count_memory(network, 4, torch.float32)
    # The last convolution: what came in, its input twice, its output. The ReLU: what came in, its input, its output.
    assert memory.gb_per_megapixel == pytest.approx(max(4 + 64 + 64 + 3, 4 + 64 + 64) * 4 / 1000)
    assert memory.fixed_gb == pytest.approx(0, abs=1e-9)
    assert memory.elements_per_pixel == 64
    half = count_memory(copy.deepcopy(network).half(), 4, torch.float16)
    assert half.gb_per_megapixel == pytest.approx(memory.gb_per_megapixel / 2)
    assert memory.pixels_in(2 * memory.gb_per_megapixel) == pytest.approx(2e6)
    assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())


def test_the_count_is_what_the_processor_allocates() -> None:
    """PyTorch's profiler sees every allocation, of the direct algorithms at least."""
    network = generator("lama-fourier", "generator.ngf=16")
    set_fft_backend(network, "fft")
    counted = count_memory(network, 4, torch.float32)
    x = rand(1, 1, 4, 320, 320)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        network(x)
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak / 320**2 / 1000 == pytest.approx(counted.gb_per_megapixel, rel=0.15)


@pytest.mark.parametrize("folded", [False, True])
def test_big_lama_takes_about_what_was_measured(folded: bool) -> None:
    network = generator("big-lama", "generator.ngf=64", "generator.n_blocks=18")
    counted = count_memory(fold(network) if folded else network, 4, torch.float32)
    measured = MEASURED["strips" if folded else "whole"]
    assert counted.gb_per_megapixel == pytest.approx(measured.gb_per_megapixel, rel=0.35)
    assert counted.elements_per_pixel == pytest.approx(8 if folded else 64, rel=0.02)


def test_elements_of_a_gpus_tensors_have_to_be_counted_in_32_bits() -> None:
    most = Memory(0, 1, elements_per_pixel=64).most_pixels()
    assert 64 * most < 2**31 - 1 <= 64 * (most + 1)
    assert max(SIDES) ** 2 < most
