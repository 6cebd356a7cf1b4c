"""A stranger's config beside a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.networks import make_generator
from saicinpainting.networks.load import check_buildable, load_generator
from saicinpainting.utils import InputError
from tests.helpers import golden_values

CONFIG: dict[str, Any] = {"generator": golden_values()["ffc"], "training_model": {"kind": "default"}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "best.ckpt"
    state = make_generator(**CONFIG["generator"]).state_dict()
    torch.save({"state_dict": {f"generator.{name}": tensor for name, tensor in state.items()}}, path)
    load_generator(path, CONFIG)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        *({"n_blocks": 10**9}, {"n_downsampling": 10**6}, {"ngf": 10**9}, {"ngf": 60_000, "max_features": 60_000}),
        *({"ngf": float("nan")}, {"ngf": "many"}, {"ngf": None}, {"ngf": -1}, {"n_blocks": "9"}, {"input_nc": [4]}),
        {"kind": "pix2pixhd_multidilated", "multidilation_kwargs": {"dilation_num": 10**9}},
        *({"resnet_conv_kwargs": None}, {"resnet_conv_kwargs": 3}, {"kind": None}, {"kind": ["a"]}, {1: 2}),
    ],
    ids=str,
)
def test_a_network_that_the_checkpoint_does_not_hold_is_not_built(checkpoint: Path, changes: dict[Any, Any]):
    config = copy.deepcopy(CONFIG)
    config["generator"].update(changes)
    with pytest.raises(InputError) as error:
        load_generator(checkpoint, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["generator", "training_model"])
@pytest.mark.parametrize("value", [None, 3, "text", [1]])
def test_a_section_that_is_none_is_named(checkpoint: Path, section: str, value: object):
    with pytest.raises(InputError, match=section):
        load_generator(checkpoint, {**CONFIG, section: value})


def weights(path: Path, **tensors: torch.Tensor) -> Path:
    torch.save({f"generator.model.{name}": tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    "names",
    [
        *(
            ["1.ffc.convl2l.weight", f"{layer}.conv1.ffc.convl2l.weight"]
            for layer in ("1000000000", "100000", "1" + "0" * 4500, "900")
        ),
        *(["1.from_local.bias"], ["1.from_local.weight", "1.from_local.bias"], ["1.spectral.conv2.bias"]),
    ],
    ids=lambda names: " ".join(names)[:40],
)
@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1)], ids=str)
def test_names_that_describe_no_network_are_refused(tmp_path: Path, names: list[str], shape: tuple[int, ...]):
    path = weights(tmp_path / "a.pth", **dict.fromkeys(names, torch.ones(shape)))
    with pytest.raises(InputError, match=r"a\.pth") as error:
        load_generator(path)
    assert "\n" not in str(error.value)


def test_what_weights_share_counts_once(tmp_path: Path):
    """Else a file of a megabyte could let a network of gigabytes be built."""
    path = weights(tmp_path / "a.pth", **dict.fromkeys(map(str, range(2000)), torch.ones(1 << 18)))
    config = {**CONFIG, "generator": {**CONFIG["generator"], "ngf": 1024, "max_features": 4096}}
    with pytest.raises(InputError, match="describes a larger network"):
        load_generator(path, config)


@pytest.mark.parametrize("changes", [{"ndf": 10**9}, {"n_layers": 10**9}, {"ndf": 60_000}], ids=str)
def test_neither_is_a_discriminator_that_it_does_not_hold(checkpoint: Path, changes: dict[str, Any]):
    config = {**CONFIG, "discriminator": {"kind": "pix2pixhd_nlayer", "input_nc": 3, **changes}}
    with pytest.raises(InputError, match="does not fit its config"):
        check_buildable(config, read_checkpoint(checkpoint)["state_dict"], checkpoint)
