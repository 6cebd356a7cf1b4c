"""Small helpers that every part of the package uses; imports nothing of ours."""

from __future__ import annotations

import bisect
import difflib
import faulthandler
import inspect
import numbers
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class InputError(Exception):
    """Something the user gave us is wrong: one line that says what was expected, what came, what to do.

    Commands print it without a traceback and exit with status 1.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Half a sentence for an error: the known names and, if one is near, a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"known: {', '.join(known) or 'none'}{hint}"


def check_known_keys(names: Iterable[Any], known: Iterable[str], *, where: str = "") -> None:
    """An `InputError` for the first of `names`, keys of config section `where`, that is not in `known`."""
    known = set(known)
    for name in names:
        if name not in known:
            key = f"{where}.{name}" if where else str(name)
            raise InputError(f"{key}: unknown config key; {did_you_mean(str(name), known)}")


def check_bool(where: str, value: Any) -> None:
    """An `InputError` unless `value` of config key `where` is a boolean: "false" in quotes would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{where}: expected true or false, got {value!r}")


def check_whole(where: str, value: Any, *, least: int = 0) -> None:
    """An `InputError` unless `value` of config key `where` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{where}: expected a whole number of at least {least}, got {value!r}")


def check_kind(kind: Any, kinds: Iterable[str], *, where: str) -> None:
    """An `InputError` unless `kind` of config section `where` is one of `kinds`."""
    if kind not in kinds:
        raise InputError(f"{where}.kind: unknown kind {kind!r}; {did_you_mean(str(kind), kinds)}")


def build(
    kinds: Mapping[str, Callable[..., T]],
    settings: Mapping[str, Any],
    *,
    where: str,
    default_kind: str | None = None,
) -> T:
    """Call the entry of `kinds` that `settings["kind"]` names with the other settings as keyword arguments.

    `where` is the config key the settings come from. An unknown kind, an unknown or a missing setting is an
    `InputError` that names the key and lists what is known, so a typo never passes silently.
    """
    settings = {str(key): value for key, value in settings.items()}
    kind = settings.pop("kind", default_kind)
    check_kind(kind, kinds, where=where)
    return call_with_settings(kinds[kind], settings, where=where)


def call_with_settings(target: Callable[..., T], settings: Mapping[str, Any], *, where: str) -> T:
    """Call `target(**settings)`; a setting it does not take or lacks is an `InputError` that names `where`."""
    parameters = inspect.signature(target).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any:
        check_known_keys(settings, named, where=where)
    for p in parameters:
        if p.default is p.empty and p.name in named and p.name not in settings:
            raise InputError(f"{where}.{p.name}: missing config key; it has no default, set it in the config")
    return target(**settings)


def set_requires_grad(module: nn.Module, value: bool) -> None:
    """Switch gradients of all parameters of `module` on or off."""
    for parameter in module.parameters():
        parameter.requires_grad_(value)


def add_prefix_to_keys(mapping: Mapping[str, T], prefix: str) -> dict[str, T]:
    """`{"a": 1}` with prefix `train_` becomes `{"train_a": 1}`."""
    return {prefix + key: value for key, value in mapping.items()}


def flatten_dict(nested: Mapping[Any, Any], separator: str = "_") -> dict[str, Any]:
    """Join nested keys: `{("ssim", "total"): {"mean": 1}}` becomes `{"ssim_total_mean": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = separator.join(str(part) for part in key) if isinstance(key, tuple) else str(key)
        if isinstance(value, Mapping):
            flat.update(add_prefix_to_keys(flatten_dict(value, separator), name + separator))
        else:
            flat[name] = value
    return flat


class LinearRamp:
    """A number that goes linearly from `start_value` at `start_iter` to `end_value` at `end_iter`."""

    def __init__(self, start_value: float = 0, end_value: float = 1, start_iter: int = -1, end_iter: int = 0) -> None:
        self.start_value, self.end_value = start_value, end_value
        self.start_iter, self.end_iter = start_iter, end_iter

    def __call__(self, i: int) -> float:
        if i < self.start_iter:
            return self.start_value
        if i >= self.end_iter:
            return self.end_value
        part = (i - self.start_iter) / (self.end_iter - self.start_iter)
        return self.start_value * (1 - part) + self.end_value * part


class LadderRamp:
    """A number that takes `values[k]` from `start_iters[k - 1]` on (`values[0]` before the first)."""

    def __init__(self, start_iters: list[int], values: list[float]) -> None:
        if len(values) != len(start_iters) + 1:
            raise InputError(
                f"ladder ramp: {len(start_iters)} start_iters need {len(start_iters) + 1} values, got {len(values)}"
            )
        self.start_iters, self.values = start_iters, values

    def __call__(self, i: int) -> float:
        return self.values[bisect.bisect_right(self.start_iters, i)]


RAMPS: dict[str, Callable[..., Callable[[int], float]]] = {"ladder": LadderRamp, "linear": LinearRamp}


def get_ramp(kind: str = "ladder", **kwargs: Any) -> Callable[[int], float]:
    """A function of the iteration: `linear` or `ladder`."""
    return build(RAMPS, {"kind": kind, **kwargs}, where="ramp_kwargs")


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters, buffers left out."""
    return sum(p.numel() for p in module.parameters())


def get_shape(value: Any) -> Any:
    """The shapes of all tensors and arrays of a nest of mappings and sequences; of numbers their type."""
    if hasattr(value, "shape"):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {name: get_shape(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [get_shape(part) for part in value]
    if isinstance(value, numbers.Number):
        return type(value)
    raise ValueError(f"expected tensors, numbers, mappings or sequences, got {type(value).__name__}")


def register_debug_signal_handlers(sig: int | None = None, callback: Any = None) -> None:
    """On the signal `sig` (SIGUSR1), print where every thread is; nothing on systems without it.

    callback: a signal handler to call instead.
    """
    sig = getattr(signal, "SIGUSR1", None) if sig is None else sig
    if sig is None:
        return
    if callback is not None:
        signal.signal(sig, callback)
    elif hasattr(faulthandler, "register"):
        faulthandler.register(sig, all_threads=True)
