"""The two networks' optimizers: from the config, and after a resume."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from saicinpainting.schema import read_section
from saicinpainting.utils import InputError, build, build_target, check_known_keys, check_whole

LOGGER = logging.getLogger(__name__)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
NAMES = ("generator", "discriminator")
"""The networks, in the order of their optimizers."""
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Config section `optimizers`: `kind` (`adamw` unless set, `adam`) and the arguments of torch's class.

    Args:
        generator: of the generator's optimizer; `scheduler` inside changes its learning rate by steps: `_target_`, a
            class of torch.optim.lr_scheduler with its arguments, `warmup_steps`, or both.
        discriminator: of the discriminator's, likewise.
    """

    generator: dict[str, Any]
    discriminator: dict[str, Any]


def make_optimizers(
    settings: Settings, generator: nn.Module, discriminator: nn.Module, fused: bool
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """The optimizers that `optimizers` describes, of the parameters that require a gradient.

    `fused`: whether fused ones suit the precision.
    """
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
    settings["params"] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        if settings.get("betas") is not None:
            settings["betas"] = [float(beta) for beta in settings["betas"]]  # torch takes no 0 beside a .99
        return build(OPTIMIZERS, settings, where=where, default_kind="adamw", interface=torch.optim.Optimizer)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items() if key not in ("params", "fused"))
        raise InputError(f"{where}: {error}; given {given}") from error


def make_schedulers(settings: Settings, optimizers: Sequence[torch.optim.Optimizer]) -> list[LRScheduler]:
    """The learning rate schedulers that `optimizers.NAME.scheduler` describe, stepped with their optimizers."""
    schedulers: list[LRScheduler] = []
    for name, optimizer in zip(NAMES, optimizers, strict=True):
        scheduler = (settings.get(name) or {}).get("scheduler")
        if scheduler is not None and not isinstance(scheduler, Mapping):
            raise InputError(f"optimizers.{name}.scheduler: expected a mapping of settings or null, got {scheduler!r}")
        if scheduler is not None:
            schedulers.append(_make_scheduler(dict(scheduler), optimizer, where=f"optimizers.{name}.scheduler"))
    return schedulers


def _make_scheduler(settings: dict[str, Any], optimizer: torch.optim.Optimizer, *, where: str) -> LRScheduler:
    """`_target_`, a class of `torch.optim.lr_scheduler` that is stepped without a value, or `warmup_steps`, or both.

    In step i of the warm-up, from 0, the learning rate is (i + 1) / `warmup_steps` of the optimizer's (Goyal et al.
    2017, section 2.2); the other schedule's first step is the one after it.
    """
    warmup = settings.pop("warmup_steps", 0)
    check_whole(f"{where}.warmup_steps", warmup)
    target = settings.get("_target_")
    if target is None:
        check_known_keys(settings, ("_target_", "warmup_steps"), where=where)
    if target is None and not warmup:
        raise InputError(
            f"{where}._target_: missing config key; set it to a class of torch.optim.lr_scheduler, or null"
        )
    schedulers: list[LRScheduler] = []
    if warmup:
        schedulers.append(LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(1, warmup - 1)))
    if target is not None:
        schedulers.append(_build_scheduler(settings, optimizer, where=where))
    return schedulers[0] if len(schedulers) == 1 else SequentialLR(optimizer, schedulers, [warmup])


def _build_scheduler(settings: dict[str, Any], optimizer: torch.optim.Optimizer, *, where: str) -> LRScheduler:
    target = settings["_target_"]

    def build_for(optimizer: torch.optim.Optimizer) -> Any:
        return build_target({**settings, "optimizer": optimizer}, where=where, interface=LRScheduler)

    trial = object.__new__(type(optimizer))  # a copy whose rates may change, with the same weights and no state
    trial.__dict__.update(optimizer.__dict__, state={}, param_groups=[_own_settings(g) for g in optimizer.param_groups])
    try:
        scheduler = build_for(trial)
        try:
            inspect.signature(scheduler.step).bind()
        except TypeError as error:
            raise InputError(
                f"{where}._target_: {target} wants a value in each step ({error}), but nothing is measured there; take "
                "a class of torch.optim.lr_scheduler that goes by steps alone"
            ) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer has stepped
            scheduler.step()  # which divides by periods
    except (TypeError, ValueError, ArithmeticError) as error:
        given = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "_target_")
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: {target} does not take {given or 'no settings'}: {reason}; correct them") from error
    made: LRScheduler = build_for(optimizer)
    return made


def _own_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group with settings of its own, which may be tensors, and the same weights."""
    return {key: value if key == "params" else copy.deepcopy(value) for key, value in group.items()}


def use_configured_rates(
    optimizers: Sequence[torch.optim.Optimizer],
    schedulers: Sequence[LRScheduler],
    make: Callable[[Sequence[torch.optim.Optimizer]], Sequence[LRScheduler]],
    steps: Sequence[int],
) -> None:
    """The learning rates and schedules of the config in place of those that a resume has brought (`trainer.resume_lr`).

    A schedule goes on at the step reached, as if the config had been so from the start. Everything else of the
    optimizers, Adam's moments above all, stays.

    Args:
        optimizers: of the two networks.
        schedulers: theirs, which are changed in place.
        make: makes schedulers of the config for new optimizers.
        steps: that each schedule counts as done.
    """
    before = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"]
            group.pop("initial_lr", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of")  # that no optimizer has stepped yet
        for scheduler, configured, done in zip(schedulers, make(optimizers), steps, strict=True):
            for _ in range(done):
                configured.step()
            scheduler.load_state_dict(configured.state_dict())
    for name, optimizer, rate in zip(NAMES, optimizers, before, strict=True):
        if (now := optimizer.param_groups[0]["lr"]) != rate:
            message = "%s: learning rate %g -> %g (trainer.resume_lr), the moments of %s are kept"
            LOGGER.info(message, name, rate, now, type(optimizer).__name__)


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


def warn_of_other_settings(
    optimizer: torch.optim.Optimizer, *, scheduled: bool = False, set_by_schedule: Collection[str] = ()
) -> None:
    """Say what a resumed run takes from its checkpoint instead of from the config.

    `scheduled`: a schedule changes the learning rate, whose start the config sets. `set_by_schedule`: settings that a
    schedule decides by itself.
    """
    for group in optimizer.param_groups:
        for name in (name for name in optimizer.defaults if name not in (*_IMPLEMENTATION, *set_by_schedule)):
            kept: Any = group.get(f"initial_{name}" if name == "lr" and scheduled else name)
            asked: Any = optimizer.defaults.get(name)
            if kept is not None and not np.array_equal(kept, asked):  # lists and tuples
                remedy = "trainer.resume_lr=true" if name == "lr" else "trainer.finetune_from"
                message = "resumed with %s=%s of the checkpoint, not %s of the config; %s takes that"
                LOGGER.warning(message, name, kept, asked, remedy)
