"""Optimizers from the config, and what a resumed run makes of those in its checkpoint."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from saicinpainting.networks.base import set_memory_format
from saicinpainting.training.optimizers import make_optimizers, suit_this_run, warn_of_other_settings
from saicinpainting.utils import InputError
from tests.helpers import fill, rand

SETTINGS = {"generator": {"kind": "adam", "lr": 0.1}, "discriminator": {"kind": "adam", "lr": 0.1}}


def network() -> nn.Conv2d:
    return fill(nn.Conv2d(4, 6, 3))


def step(module: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    module(rand(seed, 2, 4, 8, 8)).square().sum().backward()
    optimizer.step()


def two_steps(first: torch.memory_format, second: torch.memory_format) -> torch.Tensor:
    """The kernel after a step in one layout, and after a resume one in the other."""
    before = network()
    set_memory_format(before, first)
    optimizer, _ = make_optimizers(SETTINGS, before, network(), True)
    step(before, optimizer, 1)
    resumed = network()
    set_memory_format(resumed, second)
    resumed.load_state_dict(before.state_dict())
    after, _ = make_optimizers(SETTINGS, resumed, network(), True)
    after.load_state_dict(optimizer.state_dict())
    suit_this_run(after)
    step(resumed, after, 2)
    return resumed.weight.detach()


@pytest.mark.parametrize("second", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("first", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_of_another_memory_layout_goes_on_as_its_own(first, second):
    """Fused optimizers would pair each weight with the moments of another."""
    expected = two_steps(torch.contiguous_format, torch.contiguous_format)
    torch.testing.assert_close(two_steps(first, second), expected, rtol=1e-5, atol=1e-6)


def test_optimizers_are_fused_unless_the_config_says_otherwise():
    assert [o.defaults["fused"] for o in make_optimizers(SETTINGS, network(), network(), True)] == [True, True]
    own = {**SETTINGS, "generator": {"kind": "adam", "foreach": True}}
    assert [o.defaults["fused"] for o in make_optimizers(own, network(), network(), True)] == [None, True]
    # torch chooses its way, many tensors at a time where it can, only if nothing is set.
    assert [o.defaults["fused"] for o in make_optimizers(SETTINGS, network(), network(), False)] == [None, None]


def test_a_fused_optimizer_is_refused_where_it_would_clip_scaled_gradients():
    own = {**SETTINGS, "discriminator": {"kind": "adam", "fused": True}}
    with pytest.raises(InputError, match=r"optimizers\.discriminator\.fused=true: .* float16"):
        make_optimizers(own, network(), network(), False)


def test_what_a_resume_takes_from_the_checkpoint_is_said(caplog):
    module = network()
    optimizer, _ = make_optimizers(SETTINGS, module, network(), True)
    other, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.2}}, module, network(), True)
    with caplog.at_level(logging.WARNING):
        warn_of_other_settings(optimizer)
    assert not caplog.text
    other.load_state_dict(optimizer.state_dict())
    with caplog.at_level(logging.WARNING):
        warn_of_other_settings(other)
    assert "resumed with lr=0.1 of the checkpoint, not 0.2 of the config" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": {}}, r"optimizers\.discriminator: missing config key"),
        ({**SETTINGS, "critic": {}}, r"optimizers\.critic: unknown config key"),
        ({**SETTINGS, "generator": {"kind": "sgdd"}}, r"optimizers\.generator\.kind: unknown kind 'sgdd'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        make_optimizers(settings, network(), network(), True)


@pytest.mark.parametrize("before", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"capturable": False}])
@pytest.mark.parametrize("after", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_resumed_optimizer_computes_as_this_run_says(before, after):
    """Its checkpoint holds how the run that wrote it computed."""
    module = network()
    old, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.1, **before}}, module, network(), True)
    step(module, old, 1)
    new, _ = make_optimizers({**SETTINGS, "generator": {"kind": "adam", "lr": 0.1, **after}}, module, network(), True)
    expected = {name: new.param_groups[0][name] for name in ("fused", "foreach", "capturable")}
    new.load_state_dict(old.state_dict())
    suit_this_run(new)
    assert {name: new.param_groups[0][name] for name in expected} == expected
    assert {state["step"].dtype for state in new.state.values()} == {torch.float32}
    step(module, new, 2)
