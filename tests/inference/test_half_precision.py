"""Half precision on a network with the statistics of published ones: batch norms' running variances up to millions."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.networks.ffc import FFC_BN_ACT
from saicinpainting.networks.fourier import FourierUnit, SpectralTransform
from saicinpainting.networks.inputs import blend
from saicinpainting.networks.load import TrainedGenerator, load_model
from tests.helpers import photo

LARGEST = 5e6


@pytest.fixture(scope="module")
def trained(images: tuple[np.ndarray, np.ndarray]) -> TrainedGenerator:
    """lama-small with the statistics that batch norms would have of its maps, and the same function."""
    trained = load_model("lama-small")
    trained.generator.eval()

    def take_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, var = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3)).clamp(min=1e-4)
        before = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.data += before * (mean - norm.running_mean)
        norm.weight.data = before * (var + norm.eps).sqrt()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)

    norms = [module for module in trained.generator.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    image, mask = torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None] / 255, torch.from_numpy(images[1] > 0)
    with torch.no_grad():
        trained.generator(trained.generator_input(image, mask[None, None].float()))
    for hook in hooks:
        hook.remove()
    return trained


@pytest.fixture(scope="module")
def extreme(trained: TrainedGenerator) -> nn.Module:
    """The same function: the channels in front of each norm are multiplied by .03 to 2,000, and its statistics too."""
    generator = copy.deepcopy(trained.generator).eval()
    rng = np.random.default_rng(0)

    def scale(norm: nn.Module, *convs: nn.Module) -> None:
        kernels = [conv.weight for conv in convs if isinstance(conv, nn.Conv2d)]
        if not isinstance(norm, nn.BatchNorm2d) or not kernels:
            return
        largest = math.sqrt(LARGEST / norm.running_var.max().item())
        factors = torch.from_numpy(10 ** rng.uniform(-1.5, math.log10(largest), norm.num_features)).float()
        # Not by less than a variance of 0 stands for.
        factors = torch.maximum(factors, (norm.eps / (norm.running_var + norm.eps)).sqrt())
        for kernel in kernels:
            kernel.data *= factors[:, None, None, None]
        norm.running_mean *= factors
        # So that the root of variance + eps grows by the factor, too.
        norm.running_var.copy_((factors.square() * (norm.running_var + norm.eps) - norm.eps).clamp(min=0))

    for module in generator.modules():
        if isinstance(module, FFC_BN_ACT):
            ffc = module.ffc
            scale(module.bn_l, ffc.convl2l, ffc.convg2l)
            scale(module.bn_g, ffc.convl2g, getattr(ffc.convg2g, "conv2", ffc.convg2g))
        elif isinstance(module, SpectralTransform):
            scale(module.conv1[1], module.conv1[0])
        elif isinstance(module, FourierUnit):
            scale(module.bn, module.conv_layer)
    variances = torch.cat([m.running_var for m in generator.modules() if isinstance(m, nn.BatchNorm2d)])
    assert variances.max() > 1e6
    return generator


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((96, 128), np.uint8)
    mask[20:70, 40:90] = 255
    return photo("coffee.png", 128)[:96], mask


@pytest.mark.parametrize(
    ("precision", "fold", "levels"),
    [
        ("fp32", True, 1),
        ("fp32", False, 1),
        ("bf16", True, 3),
        ("bf16", False, 3),
        ("fp16", True, 1),
        ("fp16", False, 1),
    ],
)
def test_large_statistics_do_not_turn_the_fill_grey(
    trained: TrainedGenerator, extreme: nn.Module, images: tuple, precision: str, fold: bool, levels: int
) -> None:
    expected = Inpainter(trained.generator, generator_input=trained.generator_input, device="cpu")(*images)
    inpainter = Inpainter(
        extreme, generator_input=trained.generator_input, device="cpu", precision=precision, fold=fold
    )
    filled = inpainter(*images)
    assert np.abs(filled.astype(int) - expected.astype(int)).max() <= levels
    assert filled[images[1] > 0].std() > 5


def test_under_bfloat16_autocast_too(
    trained: TrainedGenerator, extreme: nn.Module, images: tuple[np.ndarray, np.ndarray]
) -> None:
    """Not under float16's, as docs/gpus.md says: what convolutions give before their norms goes beyond its range."""
    image = torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None] / 255
    mask = torch.from_numpy(images[1] > 0)[None, None].float()

    def filled(generator: nn.Module) -> Tensor:
        return blend(generator(trained.generator_input(image, mask)).float(), image, mask)

    with torch.inference_mode():
        expected = filled(trained.generator.eval())
        with torch.autocast("cpu", torch.bfloat16):
            found = filled(extreme)
    assert (found - expected).abs().max() * 255 < 4
