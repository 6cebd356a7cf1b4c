"""Folded generators against the originals, whole and in strips."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saicinpainting.inference.fast.folding import FoldedFFC, FoldedFourierUnit, fold
from saicinpainting.inference.fast.pixel_blocks import PixelBlockConv2d
from saicinpainting.inference.fast.winograd import WinogradConv2d
from saicinpainting.inference.refinement import _sparing_decode
from saicinpainting.networks.base import Features
from saicinpainting.networks.ffc import FFCResNetGenerator
from saicinpainting.networks.fourier import set_fft_backend
from tests.helpers import fake_cuda, fill, on_fake_cuda, rand
from tests.samples import generator, generator_settings

VARIANTS = {
    "lama-fourier": (),
    "lama-regular": (),
    "ablv2_work_md": (),
    "big-lama": ("generator.resnet_conv_kwargs.ratio_gin=0.5", "generator.resnet_conv_kwargs.ratio_gout=0.5"),
    "lama-fourier ": ("generator.resnet_conv_kwargs.enable_lfu=true",),
    "lama-fourier  ": ("+generator.resnet_conv_kwargs.gated=true",),
    "lama-fourier   ": ("+generator.norm_layer=in", "+generator.up_norm_layer=in"),
    "lama-fourier    ": ("generator.resnet_conv_kwargs.ratio_gin=1", "generator.resnet_conv_kwargs.ratio_gout=1"),
    "lama-fourier     ": ("+generator.resnet_conv_kwargs.spectral_pos_encoding=true",),
    "lama-regular ": ("generator.n_downsampling=0",),
    "lama-fourier      ": (
        "+generator.out_ffc=true", "+generator.out_ffc_kwargs={ratio_gin: 0.5, ratio_gout: 0.5, enable_lfu: false}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS, ids=lambda name: " ".join([name.strip(), *VARIANTS[name]]))
def test_a_folded_generator_computes_the_same(name: str) -> None:
    original = generator(name.strip(), *VARIANTS[name])
    before = {key: value.clone() for key, value in original.state_dict().items()}
    folded = fold(original)
    x = rand(1, 2, 4, 80, 96)
    with torch.no_grad():
        expected = original(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(folded(x), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(folded.decode(folded.encode(x)), expected, atol=1e-5, rtol=0)
        folded.strip_pixels = 24 * 96  # four strips
        torch.testing.assert_close(folded(x), expected, atol=1e-5, rtol=0)
    for key, value in original.state_dict().items():
        assert torch.equal(value, before[key])


def test_nothing_is_left_to_fold() -> None:
    folded = fold(generator("lama-fourier"))
    assert not [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [part for part in folded.modules() if isinstance(part, FoldedFFC)]
    assert [part for part in folded.modules() if isinstance(part, FoldedFourierUnit)]
    assert not [parameter for parameter in folded.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", ["lama-fourier", "lama-regular"])
def test_wide_networks_take_the_fast_convolutions(name: str) -> None:
    original, x = generator(name, "generator.ngf=32"), rand(1, 1, 4, 136, 152)
    folded = fold(original)
    fast = [part for part in folded.modules() if isinstance(part, WinogradConv2d)]
    assert len(fast) == {"lama-fourier": 8, "lama-regular": 4}[name]
    assert [part.out_channels for part in folded.modules() if isinstance(part, PixelBlockConv2d)] == [3]
    with torch.no_grad():
        assert fast[0]._is_faster(rand(2, 1, fast[0].in_channels, 16, 18))
        torch.testing.assert_close(folded(x), original(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["fft", "products"])
def test_both_transforms(backend: str) -> None:
    original, x = generator("lama-fourier"), rand(1, 1, 4, 64, 72)
    folded = fold(original)
    set_fft_backend(folded, backend)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), original(x), atol=1e-5, rtol=0)


def test_strips_are_made_of_large_images_only_and_not_where_norms_look_far() -> None:
    folded, rows = fold(generator("lama-fourier")), []
    folded.generator.model[1].register_forward_hook(lambda _, args, __: rows.append(args[0].shape[-2]))
    with torch.no_grad():
        folded(rand(1, 1, 4, 64, 64))
        assert rows == [64 + 6]
        rows.clear()
        folded.strip_pixels = 16 * 64
        folded(rand(1, 1, 4, 64, 64))
    assert len(rows) == 4
    assert not fold(generator("lama-fourier", "+generator.norm_layer=in")).strips


class Renamed(FFCResNetGenerator):
    """A generator of one's own with our layers."""


def test_a_generator_of_ones_own_with_our_layers_has_strips() -> None:
    settings = generator_settings("lama-fourier")
    settings.pop("kind")
    assert fold(Renamed(**settings)).strips


class Inverted(FFCResNetGenerator):
    """A generator of one's own that does more than its layers."""

    def decode(self, features: Features) -> torch.Tensor:
        return 1 - super().decode(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


def test_a_generator_of_ones_own_keeps_its_methods_and_norms_of_its_own_see_the_whole_image() -> None:
    settings = generator_settings("lama-fourier")
    settings.pop("kind")
    group_norm = {**settings, "norm_layer": lambda width: nn.GroupNorm(2, width)}
    for original in (Inverted(**settings), FFCResNetGenerator(**group_norm)):
        original = fill(original).eval()
        folded, x = fold(original), rand(1, 1, 4, 64, 64)
        folded.strip_pixels = 16 * 64
        with torch.no_grad():
            torch.testing.assert_close(folded(x), original(x), atol=1e-5, rtol=0)
            torch.testing.assert_close(folded.decode(folded.encode(x)), original(x), atol=1e-5, rtol=0)
            refined = _sparing_decode(folded)(folded.encode(x))  # what refinement differentiates
            torch.testing.assert_close(refined, original(x), atol=1e-5, rtol=0)


def test_gradients_for_refinement() -> None:
    """Refinement asks for gradients of the features."""
    original = generator("lama-fourier")
    x, gradients = rand(1, 1, 4, 64, 64), []
    for network in (original, fold(original)):
        with torch.no_grad():
            features = network.encode(x)
        leaves = [half.clone().requires_grad_() for half in features]
        network.decode(tuple(leaves)).square().mean().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("name", VARIANTS, ids=lambda name: " ".join([name.strip(), *VARIANTS[name]]))
def test_a_generator_on_a_gpu_is_folded_there(name: str) -> None:
    network = generator(name.strip(), *VARIANTS[name])
    with fake_cuda() as device, torch.no_grad():
        folded = fold(on_fake_cuda(network, device))
        tensors = [*folded.parameters(), *folded.buffers()]
        assert {tensor.device for tensor in tensors} == {device}
        for backend in ("products", "fft"):
            set_fft_backend(folded, backend)
            result = folded(torch.empty(1, 4, 160, 160, device=device))
            assert (result.shape, result.device) == ((1, 3, 160, 160), device)
