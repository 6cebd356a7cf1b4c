"""The learning rate schedules of a run; a resumed one goes on with those of its checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from saicinpainting.training.optimizers import NAMES, Settings, make_schedulers, use_configured_rates
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)

SETTINGS = "schedules"  # the checkpoint's key for the settings that its schedules have, by network


class SavedSchedule(NamedTuple):
    """A network's schedule in a checkpoint."""

    settings: Settings
    state: dict[str, Any]


class Schedules:
    """Those of both networks.

    Args:
        optimizers: the config section of this name.
        resume_lr: a resumed run takes the config's, at the step reached, instead of the checkpoint's.
    """

    def __init__(self, optimizers: Settings, *, resume_lr: bool = False) -> None:
        self.resume_lr = resume_lr
        self._make = partial(make_schedulers, optimizers)
        sections = {name: optimizers.get(name) for name in NAMES}
        found = {name: part.get("scheduler") for name, part in sections.items() if isinstance(part, Mapping)}
        self.configured: dict[str, Settings] = {name: s for name, s in found.items() if isinstance(s, Mapping)}
        self.followed = self.configured  # by this run
        self._saved: dict[str, SavedSchedule] | None = None
        self._schedulers: dict[str, LRScheduler] = {}

    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[SETTINGS] = dict(self.followed)

    def check_resumable(self, checkpoint: Mapping[str, Any], path: str) -> None:
        """An `InputError` if a schedule in `checkpoint`, the file `path`, is of another class than the config's."""
        for name, saved in self._in(checkpoint).items() if not self.resume_lr else ():
            now = self.configured.get(name)
            if now is not None and _kind(now) != _kind(saved.settings):
                raise InputError(
                    f"optimizers.{name}.scheduler: {path} has {_title(saved.settings)}, which cannot go on as "
                    f"{_title(now)}; set it as it was, or trainer.resume_lr=true to take the config's"
                )

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Take them out of `checkpoint`: Lightning would give each state to the next scheduler, whosever it is."""
        self._saved = self._in(checkpoint)
        checkpoint["lr_schedulers"] = []

    def start(self, optimizers: Sequence[torch.optim.Optimizer]) -> list[LRScheduler]:
        """Make those of the optimizers, before these are resumed themselves."""
        self._schedulers = dict(zip(self.configured, self._make(optimizers), strict=True))
        if self._saved is not None and not self.resume_lr:
            self.followed = self._follow(self._saved)
            self._schedulers = {name: self._schedulers[name] for name in self.followed}
        return list(self._schedulers.values())

    def resume(self, optimizers: Sequence[torch.optim.Optimizer], steps: Mapping[str, int]) -> None:
        """Once the optimizers are resumed; `steps`: of each network, where no schedule in the checkpoint tells them."""
        if self.resume_lr:
            done = {**steps, **{name: saved.state["last_epoch"] for name, saved in (self._saved or {}).items()}}
            schedulers = list(self._schedulers.values())
            use_configured_rates(optimizers, schedulers, self._make, [done[name] for name in self._schedulers])

    def own_settings(self, name: str) -> set[str]:
        """Settings of a network's optimizer that its schedule sets, whatever they were."""
        momentum = getattr(self._last_part(name), "cycle_momentum", None)  # OneCycleLR and CyclicLR
        return set() if momentum is None else {"lr", "betas", "momentum"} if momentum else {"lr"}

    def check_length(self, planned: Mapping[str, float]) -> None:
        """An `InputError` if OneCycleLR, which raises at its end, has fewer steps than its network: `planned`."""
        for name, scheduler in self._schedulers.items():
            part = self._last_part(name)
            if not isinstance(part, OneCycleLR):
                continue
            most: int = part.total_steps
            if planned[name] > (end := most + sum(getattr(scheduler, "_milestones", []))):
                how = "" if self._saved is None or self.resume_lr else ", with trainer.resume_lr=true"
                raise InputError(
                    f"optimizers.{name}.scheduler.total_steps={most}: {_title(self.followed[name])} ends after {end:,} "
                    f"steps, but the run has {'no end' if planned[name] == math.inf else f'{planned[name]:,}'}; raise "
                    f"it{how}, or lower trainer.kwargs.max_steps"
                )

    def _last_part(self, name: str) -> Any:
        """A network's schedule without its warm-up; None where it has none."""
        scheduler: Any = self._schedulers.get(name)
        return getattr(scheduler, "_schedulers", [scheduler])[-1]

    def step(self, waiting: Collection[str]) -> None:
        """After a step; the schedule of a network which does not learn waits with it."""
        for name, scheduler in self._schedulers.items():
            if name not in waiting:
                scheduler.step()

    def _in(self, checkpoint: Mapping[str, Any]) -> dict[str, SavedSchedule]:
        """The schedules of a checkpoint by network."""
        states, told = checkpoint.get("lr_schedulers", []), checkpoint.get(SETTINGS)
        if told is not None:
            return {name: SavedSchedule(told[name], state) for name, state in zip(told, states, strict=False)}
        # One that does not tell the settings. A schedule leaves its optimizer's first rate there.
        optimizers = zip(NAMES, checkpoint.get("optimizer_states", []), strict=False)
        names = [name for name, optimizer in optimizers if "initial_lr" in optimizer["param_groups"][0]]
        found = zip(names, states, strict=False)
        return {name: SavedSchedule(_as_far_as_told(state, self.configured.get(name)), state) for name, state in found}

    def _follow(self, saved: Mapping[str, SavedSchedule]) -> dict[str, Settings]:
        """Set the schedulers to what is `saved`; the settings of those that go on. One warning tells the config's."""
        followed: dict[str, Settings] = {}
        others: list[str] = []
        for name in NAMES:
            where, now = f"optimizers.{name}.scheduler", self.configured.get(name)
            if now is not None and name in saved:
                was, state = saved[name]
                self._schedulers[name].load_state_dict(state)
                followed[name] = was
                first, second = _arguments(was), _arguments(now)
                keys = sorted(key for key in first | second if first.get(key) != second.get(key))
                others += [f"{where}.{key}={_shown(first, key)}, not {_shown(second, key)}" for key in keys]
            elif now is not None:
                others.append(f"{where}=null (the learning rate stays), not {_title(now)}")
            elif name in saved:
                others.append(f"{where}: the learning rate stays where {_title(saved[name].settings)} left it")
        if others:
            message = "resumed with the schedules of the checkpoint, not of the config: %s; %s takes the config's"
            LOGGER.warning(message, "; ".join(others), "trainer.resume_lr=true")
        return followed


def _arguments(settings: Settings) -> dict[str, Any]:
    """As they come to the class: `kind` beside `_target_` is ignored, and so is null."""
    own = {key: value for key, value in settings.items() if key not in ("kind", "_target_") and value is not None}
    return {"warmup_steps": 0, **own}


def _shown(arguments: Mapping[str, Any], key: str) -> str:
    return str(arguments[key]) if key in arguments else "its default"


def _kind(settings: Settings) -> tuple[Any, bool]:
    """What has to stay for a state to fit."""
    return settings.get("_target_"), bool(settings.get("warmup_steps"))


def _title(settings: Settings) -> str:
    target, warmup = str(settings.get("_target_") or "").rpartition(".")[2], settings.get("warmup_steps")
    parts = [f"a warm-up of {warmup} steps"] if warmup else []
    return " and ".join([*parts, target] if target else parts) or "a schedule"


def _as_far_as_told(state: Mapping[str, Any], configured: Settings | None) -> Settings:
    """The settings of a schedule by its state: the config's with the numbers that it had; {} if it is another one."""
    if configured is None:
        return {}
    optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)]) for _ in NAMES]
    fresh = make_schedulers({NAMES[0]: {"scheduler": configured}}, optimizers)[0].state_dict()
    if _names_in(fresh) != _names_in(state):
        return {}
    inner = _inner(state)
    told = {key: inner[key] for key in configured if isinstance(inner.get(key), (int, float))}
    if configured.get("_target_") is None:
        told["warmup_steps"] = round(1 / inner["start_factor"])
    elif configured.get("warmup_steps"):
        told["warmup_steps"] = state["_milestones"][0]
    return {**configured, **told}


def _inner(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the schedule behind the warm-up."""
    found: Mapping[str, Any] = state.get("_schedulers", [state])[-1]
    return found


def _names_in(state: Mapping[str, Any]) -> tuple[bool, set[str]]:
    """What tells classes apart: whether there is a warm-up, and the names that PyTorch's versions share."""
    return "_schedulers" in state, {key for key in _inner(state) if not key.startswith("_") and key != "verbose"}
