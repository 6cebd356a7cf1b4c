"""What a generator is given: the masked image, noise, the mask."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks import make_generator
from saicinpainting.networks.inputs import GeneratorInput, NoiseInput, batch_rng
from saicinpainting.schema import read_section
from saicinpainting.utils import InputError
from tests.helpers import fake_cuda, golden_values, rand


def test_each_channel_of_noise_is_normal_at_half_the_resolution_of_the_one_before():
    noise = NoiseInput(scales=4, scale_mode="nearest")(torch.zeros(8, 3, 64, 96), batch_rng(0, 0, 0))
    assert noise.shape == (8, 4, 64, 96)
    for scale in range(4):
        channel = noise[:, scale]
        step = 2**scale
        coarse = channel[:, ::step, ::step]
        assert torch.equal(channel, coarse.repeat_interleave(step, 1).repeat_interleave(step, 2))
        assert abs(float(coarse.mean())) < 5 / coarse.numel() ** 0.5
        assert abs(float(coarse.std()) - 1) < 5 / coarse.numel() ** 0.5
    assert abs(float((noise[:, 0, ::2, ::2] * noise[:, 1, ::2, ::2]).mean())) < 0.1  # one tells nothing of the next


def test_noise_repeats_for_the_same_generator_and_follows_the_dtype():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    first, second = (NoiseInput()(image, batch_rng(0, 7, 1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64


@pytest.mark.parametrize("fill_hole", [False, True])
def test_the_generator_gets_image_noise_and_mask(fill_hole: bool):
    noise = NoiseInput(scales=6)
    image, mask = rand(1, 2, 3, 64, 64), (rand(2, 2, 1, 64, 64) > 0.5).float()
    generator_input, masked = GeneratorInput(add_noise_kwargs=noise, noise_fill_hole=fill_hole), image * (1 - mask)
    x = generator_input(image, mask, batch_rng(0, 0, 0))
    expected = noise(masked, batch_rng(0, 0, 0))
    assert generator_input.channels == x.shape[1] == 10
    assert torch.equal(x[:, 3:9], expected)
    assert torch.equal(x[:, 9:], mask)
    assert torch.equal(x[:, :3], torch.where(mask > 0, expected[:, :3], masked) if fill_hole else masked)
    generator = make_generator(**{**golden_values()["ffc"], "n_blocks": 1, "input_nc": 10})
    assert generator(x).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_noise_kwargs": {"scales": 0}}, r"add_noise_kwargs\.scales: expected 1 or more"),
        ({"add_noise_kwargs": {"scales": 2}, "noise_fill_hole": True}, "too little noise"),
        ({"add_noise_kwargs": {"scale_mode": "bilinar"}}, "expected nearest, bilinear, bicubic or area, got 'bilinar'"),
        ({"add_noise_kwargs": {"fill_hole": True}}, r"add_noise_kwargs\.fill_hole: unknown config key"),
        ({"noise_fill_hole": True}, r"set training_model\.add_noise_kwargs"),
    ],
)
def test_impossible_noise_is_found_when_the_config_is_read(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        read_section(GeneratorInput, options, where="training_model")


def test_an_image_too_small_for_the_coarsest_noise_is_named():
    with pytest.raises(InputError, match="16x64 cannot be halved 5 times"):
        NoiseInput()(torch.zeros(1, 3, 16, 64), batch_rng(0, 0, 0))


def test_noise_goes_to_a_gpu_while_the_host_goes_on(monkeypatch: pytest.MonkeyPatch):
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "_to_copy" in function.__name__:
                copied.append((id(args[0]) in pinned, kwargs["non_blocking"]))
            return function(*args, **(kwargs or {}))

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(id(x)) or x)
    with fake_cuda() as device:
        image = torch.empty(1, 3, 16, 16, device=device)
        with Copies():
            assert NoiseInput(scales=2)(image, torch.Generator()).device == device
    assert copied == [(True, True)] * 2


def test_without_noise_the_input_is_the_masked_image_and_the_mask():
    image, mask = rand(1, 2, 3, 8, 8), (rand(2, 2, 1, 8, 8) > 0.5).float()
    assert torch.equal(GeneratorInput()(image, mask), torch.cat([image * (1 - mask), mask], dim=1))
    assert torch.equal(GeneratorInput(concat_mask=False)(image, mask), image * (1 - mask))
    assert (GeneratorInput().channels, GeneratorInput(concat_mask=False).channels) == (4, 3)
