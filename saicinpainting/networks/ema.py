"""A running average of the generator's weights, which fills holes better than the weights of any one step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saicinpainting.io.checkpoint import StateDict, without_prefixes
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

PREFIX = "generator_average."  # of its weights in a checkpoint; what follows is named as in `generator.`
_INNER = "network."


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """Averaging the generator's weights over the steps: keys of the config section `training_model`.

    Args:
        average_generator: average them; validation and prediction use the average.
        generator_avg_beta: what the average keeps of itself at an update, from 0 to below 1.
        average_generator_start_step: steps before the first update, the time in which weights still move far.
        average_generator_period: steps from one update to the next.
    """

    average_generator: bool = False
    generator_avg_beta: float = 0.999
    average_generator_start_step: int = 30000
    average_generator_period: int = 10

    def __post_init__(self) -> None:
        for name, expected, fits in (
            ("generator_avg_beta", "a number in [0, 1)", 0 <= self.generator_avg_beta < 1),
            ("average_generator_start_step", "0 or more", self.average_generator_start_step >= 0),
            ("average_generator_period", "1 or more", self.average_generator_period >= 1),
        ):
            if not fits:
                raise InputError(f"training_model.{name}: expected {expected}, got {getattr(self, name)}")


class GeneratorEMA(nn.Module):
    """Exponential moving average of a generator: every `period` steps from `start_step` on,
    `average = beta * average + (1 - beta) * generator`, the first time `average = generator`.

    Which steps these are follows from the step alone, so a resumed run averages at the same ones. Batch norm's running
    statistics are averaged like the parameters: those of the latest step belong to the latest weights, and depend on
    a few batches alone. Counters are copied. The average takes no gradient and stays in evaluation mode.

    Until its first update it is empty (`filled` is False): it adds nothing to a checkpoint, and one without it is
    loaded as it is.

    Args:
        generator: the network to average; a copy of it is made.
        options: how often and how far the average follows it.
    """

    def __init__(self, generator: nn.Module, options: EMAOptions) -> None:
        super().__init__()
        self.beta = options.generator_avg_beta
        self.start_step, self.period = options.average_generator_start_step, options.average_generator_period
        self.network = copy.deepcopy(_unwrapped(generator)).requires_grad_(False).eval()
        self.filled = False
        self.register_state_dict_post_hook(_name_as_generator)
        self.register_load_state_dict_pre_hook(_name_as_inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the averaged network makes of `x`, the generator's input."""
        return self.network(x)

    def train(self, mode: bool = True) -> GeneratorEMA:
        return super().train(False)

    def is_due(self, step: int) -> bool:
        """Whether the average is updated after `step` steps of the generator's optimizer."""
        return step >= self.start_step and (step - self.start_step) % self.period == 0

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int) -> None:
        """Take the weights of `generator` into the average, if `step` is a step for it.

        Args:
            generator: the network in training; DDP's and torch.compile's wrappings of it are looked through.
            step: how many steps of the optimizer its weights have had. To be called after each of them.
        """
        if not self.is_due(step):
            return
        new = _unwrapped(generator).state_dict()
        averages = self.network.state_dict()
        numbers = [name for name, average in averages.items() if average.is_floating_point()]
        counters = [name for name in averages if name not in numbers]
        # By one call for all tensors of a type.
        if self.filled:
            torch._foreach_lerp_([averages[n] for n in numbers], [new[n] for n in numbers], 1 - self.beta)
        else:
            torch._foreach_copy_([averages[n] for n in numbers], [new[n] for n in numbers])
        if counters:
            torch._foreach_copy_([averages[n] for n in counters], [new[n] for n in counters])
        self.filled = True


def with_averaged_generator(state: Mapping[str, torch.Tensor]) -> StateDict:
    """The weights to predict with: those of the average in place of `generator.*`, where `state` has an average."""
    average = {f"generator.{name[len(PREFIX) :]}": t for name, t in state.items() if name.startswith(PREFIX)}
    return {**without_prefixes(state, ("generator.", PREFIX)), **average} if average else dict(state)


def without_average(state: Mapping[str, torch.Tensor]) -> StateDict:
    """`state` for a run that does not average, with a warning if that leaves something out."""
    rest = without_prefixes(state, (PREFIX,))
    if len(rest) < len(state):
        LOGGER.warning(
            "the checkpoint has averaged weights, which this run leaves out; "
            "set training_model.average_generator=true to go on averaging"
        )
    return rest


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network itself inside DDP (`module`) and torch.compile (`_orig_mod`), whose names would differ."""
    for attribute in ("module", "_orig_mod"):
        inner = getattr(network, attribute, None)
        if isinstance(inner, nn.Module):
            return _unwrapped(inner)
    return network


# The copy has to be a child under some name, which is kept out of checkpoints: they name its weights as the official
# code does.


def _name_as_generator(module: GeneratorEMA, state: dict[str, Any], prefix: str, _: Any) -> None:
    inner = [name for name in state if name.startswith(prefix + _INNER)]
    for name in inner:
        tensor = state.pop(name)
        if module.filled:
            state[prefix + name[len(prefix + _INNER) :]] = tensor


def _name_as_inner(module: GeneratorEMA, state: dict[str, Any], prefix: str, *_: Any) -> None:
    outer = [name for name in state if name.startswith(prefix)]
    for name in outer:
        state[prefix + _INNER + name[len(prefix) :]] = state.pop(name)
    module.filled = bool(outer)
    if not outer:  # nothing to load is no fault
        state.update({prefix + _INNER + name: tensor for name, tensor in module.network.state_dict().items()})
