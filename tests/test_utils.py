from __future__ import annotations

from typing import Protocol

import pytest
import torch

from saicinpainting.utils import (
    InputError,
    add_prefix_to_keys,
    build,
    check_trusted,
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


class Wanted(Protocol):
    size: int

    def fill(self, image: object, *, mask: object) -> None: ...


class Fitting:
    size = 3

    def __init__(self, width: int = 1) -> None:
        self.width = width

    def fill(self, image: object, *, mask: object, more: int = 0) -> None: ...


class Unsized:
    def fill(self, image: object, *, mask: object) -> None: ...


class Positional:
    size = 3

    def fill(self, image: object) -> None: ...


def made(name: str, interface: type = Wanted, **settings: object) -> object:
    return build({}, {"_target_": f"{__name__}.{name}", **settings}, where="part", interface=interface)


def test_target_stands_in_place_of_a_kind_and_null_takes_a_setting_back():
    part = made("Fitting", kind="ours", width=4, inherited=None)
    assert part.width == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "interface", "settings", "message"),
    [
        ("Absent", Wanted, {}, r"part\._target_: cannot load .*Absent"),
        ("Fitting", Wanted, {"inherited": 1}, r"part\.inherited: unknown config key; known: width"),
        ("Unsized", Wanted, {}, r"part\._target_: .*Unsized has no attribute size; docs/extend\.md"),
        ("Positional", Wanted, {}, r"Positional has to take fill\(image, mask\): got an unexpected keyword"),
        ("Fitting", dict, {}, r"Fitting gives a Fitting, expected a builtins\.dict"),
    ],
)
def test_a_part_that_does_not_fit_is_an_error_of_its_key(name, interface, settings, message):
    with pytest.raises(InputError, match=message):
        made(name, interface, **settings)


def test_code_of_a_loaded_config_is_refused_unless_its_package_is_named():
    config = {"generator": {"blocks": [{"_target_": "my_lab.nets.Block"}]}, "training_model": {"_target_": None}}
    check_trusted(config, ["my_lab"])
    check_trusted(config, ("my_lab.nets",))
    for trust in ((), ["my"], ["my_lab.net"], ["other"]):
        with pytest.raises(InputError, match=r"generator\.blocks\.0\._target_: my_lab\.nets\.Block.*trust=\[my_lab\]"):
            check_trusted(config, trust)
