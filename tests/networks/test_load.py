"""A stranger's config beside a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.networks import make_generator
from saicinpainting.networks.load import load_generator
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
