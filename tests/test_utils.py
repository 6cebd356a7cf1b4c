from __future__ import annotations

import pytest
import torch

from saicinpainting.utils import (
    InputError,
    add_prefix_to_keys,
    build,
    count_parameters,
    flatten_dict,
    get_ramp,
    set_requires_grad,
)


def make_thing(*, size: int, colour: str = "red") -> tuple[int, str]:
    return size, colour


def test_build_calls_the_named_kind():
    assert build({"thing": make_thing}, {"kind": "thing", "size": 3}, where="box") == (3, "red")
    assert build({"thing": make_thing}, {"size": 3}, where="box", default_kind="thing") == (3, "red")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "thign", "size": 1}, r"box\.kind: unknown kind 'thign'.*did you mean 'thing'"),
        ({"kind": "thing", "size": 1, "color": "blue"}, r"box\.color: unknown config key.*did you mean 'colour'"),
        ({"kind": "thing"}, r"box\.size: missing config key"),
        ({}, r"box\.kind: unknown kind None.*known: thing"),
    ],
)
def test_build_names_what_is_wrong(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        build({"thing": make_thing}, settings, where="box")


@pytest.mark.parametrize(("i", "value"), [(-1, 1), (0, 1), (5, 2), (10, 3), (99, 3)])
def test_linear_ramp(i: int, value: float):
    assert get_ramp("linear", start_value=1, end_value=3, start_iter=0, end_iter=10)(i) == pytest.approx(value)


@pytest.mark.parametrize(("i", "value"), [(0, 1), (9, 1), (10, 2), (19, 2), (20, 3)])
def test_ladder_ramp(i: int, value: float):
    assert get_ramp(start_iters=[10, 20], values=[1, 2, 3])(i) == value


def test_a_ladder_needs_one_value_more():
    with pytest.raises(InputError, match="need 3 values, got 2"):
        get_ramp("ladder", start_iters=[1, 2], values=[1, 2])


def test_flat_names_are_the_official_ones():
    results = {("ssim", "total"): {"mean": 1, "std": 2}, ("fid", "0-10%"): {"mean": 3}}
    assert flatten_dict(results) == {"ssim_total_mean": 1, "ssim_total_std": 2, "fid_0-10%_mean": 3}


def test_prefix():
    assert add_prefix_to_keys({"a": 1}, "train_") == {"train_a": 1}


def test_gradients_are_switched():
    layer = torch.nn.Linear(2, 3)
    set_requires_grad(layer, False)
    assert not any(p.requires_grad for p in layer.parameters())
    assert count_parameters(layer) == 9
