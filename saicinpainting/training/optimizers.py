"""The two networks' optimizers: from the config, and after a resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from saicinpainting.schema import read_section
from saicinpainting.utils import InputError, build

LOGGER = logging.getLogger(__name__)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Config section `optimizers`: `kind` (`adamw` unless set, `adam`) and the arguments of torch's class.

    Args:
        generator: of the generator's optimizer.
        discriminator: of the discriminator's.
    """

    generator: dict[str, Any]
    discriminator: dict[str, Any]


def make_optimizers(
    settings: Settings, generator: nn.Module, discriminator: nn.Module, fused: bool
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """The optimizers that `optimizers` describes. `fused`: whether fused ones suit the precision."""
    sections = read_section(OptimizerSettings, settings, where="optimizers")
    return (
        _make_optimizer(generator, sections.generator, fused, where="optimizers.generator"),
        _make_optimizer(discriminator, sections.discriminator, fused, where="optimizers.discriminator"),
    )


def _make_optimizer(network: nn.Module, settings: Settings, fused: bool, *, where: str) -> torch.optim.Optimizer:
    settings = {key: value for key, value in settings.items() if key != "scheduler"}
    if settings.get("fused") and not fused:
        raise InputError(
            f"{where}.fused=true: a fused optimizer takes float16's loss scale out by itself, after gradients have "
            "been clipped; set it to false, or trainer.kwargs.precision=bf16-mixed"
        )
    # One kernel for all parameters, unless the config says how.
    if settings.get("_target_") is None and not settings.keys() & set(_IMPLEMENTATION):
        settings["fused"] = fused or None
    # A discriminator is frozen whenever the generator's step comes first: ask for all parameters, not the open ones.
    settings["params"] = list(network.parameters())
    return build(OPTIMIZERS, settings, where=where, default_kind="adamw", interface=torch.optim.Optimizer)


def make_schedulers(settings: Settings, optimizers: Sequence[torch.optim.Optimizer]) -> list[LRScheduler]:
    """The learning rate schedulers that `optimizers.NAME.scheduler` describe, stepped after every batch."""
    schedulers: list[LRScheduler] = []
    for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=True):
        scheduler = settings[name].get("scheduler")
        if scheduler is not None:
            where = f"optimizers.{name}.scheduler"
            schedulers.append(build({}, {**scheduler, "optimizer": optimizer}, where=where, interface=LRScheduler))
    return schedulers


# How an optimizer computes, which decides where it wants its step counters.
_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")


def suit_this_run(optimizer: torch.optim.Optimizer) -> None:
    """Give a resumed optimizer the implementation and the layouts of this run instead of its checkpoint's.

    A checkpoint brings `fused` and its like along, and the moments in the layout of the run that wrote it. Fused
    optimizers walk weights, gradients and moments side by side through memory.
    """
    for group in optimizer.param_groups:
        group.update({name: optimizer.defaults[name] for name in _IMPLEMENTATION if name in optimizer.defaults})
    on_device = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device if on_device else "cpu", torch.float32)
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def warn_of_other_settings(optimizer: torch.optim.Optimizer) -> None:
    """Say what a resumed run takes from its checkpoint instead of from the config."""
    for group in optimizer.param_groups:
        for name in ("lr", "betas", "eps", "weight_decay"):
            kept: Any = group.get(f"initial_{name}", group.get(name))
            asked: Any = optimizer.defaults.get(name)
            if kept is not None and not np.array_equal(kept, asked):  # lists and tuples
                message = "resumed with %s=%s of the checkpoint, not %s of the config; trainer.finetune_from takes that"
                LOGGER.warning(message, name, kept, asked)
