"""Generators on one device or several: the plan, features that follow, GPUs that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from saicinpainting.inference import devices, refinement
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.refinement import refine_predict
from saicinpainting.networks import make_generator
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values
from tests.samples import Inpainter, golden_picture, picture, pretend_to


@pytest.fixture(scope="module")
def ffc() -> Inpainter:
    return Inpainter("ffc")


def test_device_may_be_named(ffc):
    batch = picture(48, 48, (slice(8, 40), slice(8, 40)))
    assert torch.equal(refine_predict(batch, ffc, device="cpu"), refine_predict(batch, ffc))


@pytest.mark.parametrize(
    ("n_blocks", "n_devices", "blocks"),
    [(18, 1, [18]), (18, 2, [9, 9]), (9, 2, [5, 4]), (18, 4, [5, 4, 5, 4]), (2, 2, [1, 1])],
)
def test_blocks_are_spread_evenly_and_the_last_device_goes_on(n_blocks, n_devices, blocks):
    generator = make_generator(**{**golden_values()["ffc"], "n_blocks": n_blocks})
    plan = devices.assign(devices.decoder_parts(generator), n_devices)
    assert [plan[:n_blocks].count(number) for number in range(n_devices)] == blocks
    assert plan == sorted(plan)
    assert set(plan[n_blocks:]) == {n_devices - 1}
    assert len(plan) == n_blocks + 3 + 1  # three doublings and the last convolution


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("case", ["ffc", "ffc_lfu", "multidilated"])
def test_features_follow_the_parts_over_two_gpus(monkeypatch, case, folded):
    """PyTorch's fake GPUs, which are as strict about devices as real ones."""
    monkeypatch.setattr(nn.Module, "to", pretend_to)
    inpainter = nn.Module()
    inpainter.generator = fill(make_generator(**golden_values()[case])).eval()
    set_fft_backend(inpainter, "fft")  # the other one keeps its matrices for later
    generator: Any = fold(inpainter.generator) if folded else inpainter.generator
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):  # the next picture
            devices.spread_over(generator, gpus)
        layers, first = list(generator.model), generator.first_block
        assert devices_of(layers[: first + 1]) == {gpus[0]}
        assert devices_of(layers[first + 1 :]) == {gpus[1]}
        network = refinement._Network(generator, gpus[0], None)
        x = torch.zeros(2, 4, 144, 160, device=gpus[0])
        features = network.encode(x)
        for decode in (network.decode, network.decode_for_gradient):
            prediction = decode(features)
            assert (prediction.shape, prediction.device) == ((2, 3, 144, 160), gpus[0])
        with torch.no_grad():
            assert generator(x).device == gpus[1]  # it can be called as ever
        for layer in layers:
            layer._forward_pre_hooks.clear()
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            network.decode(features)


def devices_of(layers: Sequence[nn.Module]) -> set[torch.device]:
    return {tensor.device for layer in layers for tensor in layer.parameters()}


def test_a_spread_generator_is_not_moved_again(ffc):
    where = ["cpu", "cpu"]
    batch = picture(48, 48, (slice(8, 40), slice(8, 40)))
    generator = Inpainter("ffc").generator
    inpainter = nn.Module()
    inpainter.generator = generator
    before = {name: parameter.data_ptr() for name, parameter in generator.named_parameters()}
    for _ in range(2):
        assert torch.equal(refine_predict(batch, inpainter, device=where), refine_predict(batch, ffc))
    assert {name: parameter.data_ptr() for name, parameter in generator.named_parameters()} == before
    hooks = [len(layer._forward_pre_hooks) for layer in generator.model]
    assert sum(hooks) == len(devices.decoder_parts(generator))
    assert max(hooks) == 1


@pytest.mark.parametrize(
    ("gpu_ids", "numbers"),
    [(None, []), ("None", []), ("", []), ("0", [0]), ("0,", [0]), (1, [1]), ("1, 0", [1, 0]), ([0, 1], [0, 1])],
)
def test_gpu_ids(monkeypatch, gpu_ids, numbers):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.gpus(gpu_ids) == [torch.device("cuda", number) for number in numbers]


@pytest.mark.parametrize(
    ("gpu_ids", "match"),
    [
        ("first", "numbers of GPUs"),
        ("2,", "GPU 2 asked for, 2 found; set refiner.gpu_ids=null"),
        (99, "GPU 99 asked for"),
        ([0, 7], "GPU 7 asked for"),
        ("0,0", "each GPU once"),
    ],
)
def test_gpu_ids_that_cannot_be_served(monkeypatch, ffc, gpu_ids, match):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=match):
        refine_predict(golden_picture(), ffc, gpu_ids=gpu_ids)


def test_more_devices_than_blocks(ffc):
    with pytest.raises(InputError, match="3 GPUs asked for, but the generator has 2 residual blocks to spread; name 2"):
        refine_predict(golden_picture(), ffc, device=["cpu"] * 3)
