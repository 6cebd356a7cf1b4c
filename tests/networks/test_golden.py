"""All networks against the numbers, names and sizes of the official code."""

from __future__ import annotations

import pytest
import torch

from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.networks.resnet_encoder import ResNetEncoder
from saicinpainting.utils import count_parameters
from tests.helpers import fill, golden_arrays, golden_keys, golden_values, rand
from tests.samples import CASES

NO_GLOBAL = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
FFC_SETTINGS = {
    "kind": "ffc_resnet",
    "add_out_act": "sigmoid",
    "init_conv_kwargs": NO_GLOBAL,
    "downsample_conv_kwargs": NO_GLOBAL,
    "resnet_conv_kwargs": {"ratio_gin": 0.75, "ratio_gout": 0.75, "enable_lfu": False},
}
MULTIDILATED = {"comb_mode": "cat_in", "dilation_num": 4}
# Settings of the shipped configs, and the published size in millions of parameters.
FULL_SIZE = {
    "big-lama": ({**FFC_SETTINGS, "n_blocks": 18}, 50.98),
    "lama-fourier": ({**FFC_SETTINGS, "n_blocks": 9}, 27.05),
    "lama-regular": ({"kind": "pix2pixhd_global", "n_blocks": 9}, 45.62),
    "big-lama-regular": ({"kind": "pix2pixhd_global", "n_blocks": 15}, 73.95),
    "ablv2_work_md": (
        {"kind": "pix2pixhd_multidilated", "n_blocks": 9, "multidilation_kwargs": MULTIDILATED},
        45.65,
    ),
}
# case and size -> seed of the input: 1 for the first size of a case, 2 for the second


def assert_same_entries(module: torch.nn.Module, title: str) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == golden_keys()[title]


@pytest.mark.parametrize("case", CASES)
def test_generator_output(case: str) -> None:
    want = golden_arrays()[case]
    batch, _, height, width = want.shape
    generator = fill(make_generator(**golden_values()[case.split(".")[0]])).train(".train." in case)
    with torch.no_grad():
        got = generator(rand(CASES[case], batch, 4, height, width))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["ffc", "global", "multidilated"])
def test_forward_is_decode_of_encode(case: str) -> None:
    generator = fill(make_generator(**golden_values()[case])).eval()
    x = rand(1, 1, 4, 96, 128)
    with torch.no_grad():
        features = generator.encode(x)
        torch.testing.assert_close(generator.decode(features), generator(x), rtol=0, atol=0)
    maps = features if case == "ffc" else (features,)
    # 64 channels at an eighth of the resolution, three quarters of them global in the Fourier network
    assert [tuple(m.shape) for m in maps] == [(1, c, 12, 16) for c in ([16, 48] if case == "ffc" else [64])]


@pytest.mark.parametrize("title", FULL_SIZE)
def test_generator_names_and_size(title: str) -> None:
    settings, millions = FULL_SIZE[title]
    with torch.device("meta"):
        generator = make_generator(input_nc=4, output_nc=3, ngf=64, n_downsampling=3, **settings)
    assert_same_entries(generator, f"{title} generator")
    assert round(count_parameters(generator) / 1e6, 2) == millions


def test_discriminator_names() -> None:
    with torch.device("meta"):
        discriminator = make_discriminator(kind="pix2pixhd_nlayer", input_nc=3, ndf=64, n_layers=4)
    assert_same_entries(discriminator, "pix2pixhd_nlayer discriminator")


@pytest.mark.parametrize("arch", ["resnet50dilated", "resnet50"])
def test_encoder_names(arch: str) -> None:
    with torch.device("meta"):
        encoder = ResNetEncoder(arch)
    assert_same_entries(encoder, "resnet50dilated perceptual encoder")


def test_discriminator_output() -> None:
    values = golden_values()
    discriminator = fill(make_discriminator(**values["discriminator"])).eval()
    with torch.no_grad():
        score, features = discriminator(rand(3, 2, 3, 64, 64))
    torch.testing.assert_close(score, golden_arrays()["discriminator.score"], rtol=0, atol=1e-5)
    got = [
        {"shape": list(f.shape), "mean": pytest.approx(f.mean().item(), abs=1e-5), "std": f.std().item()}
        for f in features
    ]
    for g, want in zip(got, values["discriminator.features"], strict=True):
        assert g["shape"] == want["shape"]
        assert g["mean"] == want["mean"]
        assert g["std"] == pytest.approx(want["std"], abs=1e-5)


def test_encoder_output() -> None:
    losses = golden_values()["losses"]
    encoder = fill(ResNetEncoder("resnet50dilated")).eval()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        pred, real = (encoder((rand(seed, 2, 3, 64, 64) - mean) / std) for seed in (4, 5))
    assert [list(m.shape) for m in pred] == losses["resnet_pl.feature_shapes"]
    loss = 30 * sum(torch.nn.functional.mse_loss(p, r).item() for p, r in zip(pred, real, strict=True))
    assert loss == pytest.approx(losses["resnet_pl(weight=30)"], rel=1e-5)
