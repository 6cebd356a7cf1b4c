"""The averaged generator, against a closed form and PyTorch's own average."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.networks.ema import EMAOptions, GeneratorEMA, with_averaged_generator, without_average
from saicinpainting.utils import InputError

BETA = 0.9
OPTIONS = EMAOptions(generator_avg_beta=BETA, average_generator_start_step=4, average_generator_period=3)


class Network(nn.Module):
    """Parameters, running statistics and a counter, as the generators have them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Training(nn.Module):
    """The names that a LightningModule gives its two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Network()
        self.generator_average = GeneratorEMA(self.generator, OPTIONS)

    def train_to(self, step: int, start: int = 0) -> Training:
        for done in range(start + 1, step + 1):
            step_of(self.generator, done)
            self.generator_average.update(self.generator, done)
        return self


def step_of(network: nn.Module, number: int) -> None:
    """A step that depends on its number alone: noise on the parameters, a batch for the running statistics."""
    rng = torch.Generator().manual_seed(number)
    network(torch.randn(2, 3, 8, 8, generator=rng))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape, generator=rng)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_it_is_the_weighted_sum_of_the_weights_at_every_period():
    """Updates after steps 4, 7, 10, 13 of 15: weights beta³, and (1 - beta) beta^(updates to come)."""
    training = Training()
    weights = {}
    for step in range(1, 16):
        training.train_to(step, start=step - 1)
        weights[step] = training.generator.model[0].weight.detach().double()
    expected = BETA**3 * weights[4] + (1 - BETA) * (BETA**2 * weights[7] + BETA * weights[10] + weights[13])
    average = training.generator_average.network.model[0].weight
    torch.testing.assert_close(average.double(), expected, rtol=0, atol=1e-5)


def test_it_is_pytorchs_average_of_parameters_and_running_statistics():
    training = Training()
    reference = AveragedModel(training.generator, multi_avg_fn=get_ema_multi_avg_fn(BETA), use_buffers=True)
    for step in range(1, 30):
        training.train_to(step, start=step - 1)
        if step in range(4, 30, 3):
            reference.update_parameters(training.generator)
    average, expected = training.generator_average.network.state_dict(), reference.module.state_dict()
    assert average.keys() == expected.keys()
    for name, tensor in average.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert average["model.1.num_batches_tracked"] == 28  # as of the last update: counters are copied
    assert not torch.equal(average["model.1.running_var"], training.generator.model[1].running_var)


def test_steps_before_the_start_and_between_the_periods_do_not_count():
    training = Training()
    due = [step for step in range(12) if training.generator_average.is_due(step)]
    assert due == [4, 7, 10]
    training.train_to(3)
    assert not training.generator_average.filled
    training.train_to(4, start=3)
    assert training.generator_average.filled
    taken = copy.deepcopy(training.generator.state_dict())
    training.train_to(6, start=4)
    for name, tensor in training.generator_average.network.state_dict().items():
        torch.testing.assert_close(tensor, taken[name], rtol=0, atol=0)


@pytest.mark.parametrize("stop", [2, 4, 6, 11])
def test_a_resumed_run_has_the_same_average(tmp_path: Path, stop: int):
    straight = Training().train_to(14)
    torch.manual_seed(0)
    write_checkpoint({"state_dict": Training().train_to(stop).state_dict()}, tmp_path / "last.ckpt")
    resumed = Training()
    resumed.load_state_dict(read_checkpoint(tmp_path / "last.ckpt")["state_dict"], strict=True)
    assert resumed.generator_average.filled == (stop >= 4)
    resumed.train_to(14, start=stop)
    assert resumed.state_dict().keys() == straight.state_dict().keys()
    for name, tensor in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_names_it_like_the_generator_once_there_is_something_to_name():
    training = Training()
    names = {name.removeprefix("generator.") for name in training.state_dict()}
    assert names == set(training.generator.state_dict())  # empty: the generator alone
    training.train_to(4)
    added = {name for name in training.state_dict() if name.startswith("generator_average.")}
    assert added == {f"generator_average.{name}" for name in names}


def test_a_missing_or_unknown_weight_of_it_is_still_found():
    state = Training().train_to(4).state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "generator_average.model.0.bias"}
    with pytest.raises(RuntimeError, match=r"Missing.*generator_average\.network\.model\.0\.bias"):
        Training().load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected.*unknown"):
        Training().load_state_dict({**state, "generator_average.unknown": torch.ones(1)})


def test_a_run_without_it_can_go_on_with_it():
    old = Network()
    training = Training()
    training.load_state_dict({f"generator.{name}": tensor for name, tensor in old.state_dict().items()}, strict=True)
    training.train_to(42, start=40)
    assert not training.generator_average.filled  # 43 is the next step for it
    training.train_to(43, start=42)
    for name, tensor in training.generator.state_dict().items():
        torch.testing.assert_close(training.generator_average.network.state_dict()[name], tensor, rtol=0, atol=0)


def test_it_neither_trains_nor_moves_with_the_generator():
    training = Training().train_to(4)
    training.train()
    assert training.generator.training
    assert not any(module.training for module in training.generator_average.modules())
    assert not any(parameter.requires_grad for parameter in training.generator_average.parameters())
    before = training.generator_average(torch.ones(1, 3, 8, 8))
    step_of(training.generator, 5)
    torch.testing.assert_close(training.generator_average(torch.ones(1, 3, 8, 8)), before, rtol=0, atol=0)


def test_wrapped_generators_are_averaged_under_their_own_names():
    plain = Training().train_to(7)
    torch.manual_seed(0)
    network = Network()
    wrapped = nn.Module()
    wrapped.module = torch.compile(network, backend="eager")  # DDP names what it holds `module`
    average = GeneratorEMA(wrapped, OPTIONS)
    for step in range(1, 8):
        step_of(network, step)
        average.update(wrapped, step)
    expected = plain.generator_average.state_dict()
    assert average.state_dict().keys() == expected.keys()
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_predicting_takes_the_average_where_there_is_one():
    training = Training().train_to(3)
    state = {**training.state_dict(), "discriminator.w": torch.ones(1)}
    assert with_averaged_generator(state).keys() == state.keys()
    training.train_to(9, start=3)
    chosen = with_averaged_generator({**training.state_dict(), "discriminator.w": torch.ones(1)})
    assert chosen.keys() == state.keys()
    for name, tensor in training.generator_average.network.state_dict().items():
        assert torch.equal(chosen[f"generator.{name}"], tensor)
    weight = "generator.model.0.weight"
    assert not torch.equal(chosen[weight], training.state_dict()[weight])


def test_a_run_that_does_not_average_says_that_it_leaves_the_average_out(caplog: pytest.LogCaptureFixture):
    training = Training().train_to(3)
    assert without_average(training.state_dict()).keys() == training.state_dict().keys()
    assert not caplog.records
    training.train_to(4, start=3)
    assert all(name.startswith("generator.") for name in without_average(training.state_dict()))
    assert "set training_model.average_generator=true" in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"generator_avg_beta": 1.0}, r"generator_avg_beta: expected a number in \[0, 1\), got 1.0"),
        ({"average_generator_start_step": -1}, "average_generator_start_step"),
        ({"average_generator_period": 0}, "average_generator_period: expected 1 or more"),
    ],
)
def test_impossible_settings_are_named(setting: dict, message: str):
    with pytest.raises(InputError, match=message):
        EMAOptions(**setting)


def test_an_update_is_one_call_for_all_weights():
    calls = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.__name__.partition(".")[0]
            if name not in ("detach", "view"):
                calls.append(name)
            return function(*args, **(kwargs or {}))

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    average = GeneratorEMA(network, EMAOptions(average_generator_start_step=0, average_generator_period=1))
    average.update(network, 0)
    with Calls():
        average.update(network, 1)
    assert calls == ["_foreach_lerp_", "_foreach_copy_"]  # the counters are copied
