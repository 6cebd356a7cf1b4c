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
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:  # NumPy's, too
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
    interface: type | None = None,
) -> T:
    """Call the entry of `kinds` that `settings["kind"]` names with the other settings as keyword arguments.

    `where` is the config key the settings come from. An unknown kind, an unknown or a missing setting is an
    `InputError` that names the key and lists what is known, so a typo never passes silently. `_target_` in place of
    `kind` names anybody's class, which is checked against `interface`: see `build_target`.
    """
    settings = {str(key): value for key, value in settings.items()}
    if settings.get("_target_") is not None:
        return build_target(settings, where=where, interface=interface)
    settings.pop("_target_", None)
    kind = settings.pop("kind", default_kind)
    check_kind(kind, kinds, where=where)
    return call_with_settings(kinds[kind], settings, where=where)


def build_target(
    settings: Mapping[str, Any], *, where: str, interface: type | None = None, offered: Mapping[str, Any] | None = None
) -> Any:
    """What the class or function that `_target_` names makes of the other settings.

    `kind` is ignored beside `_target_`, and so is null for a setting that the target does not know: that is how a
    config takes back what it inherited.

    Args:
        settings: of the config key `where`.
        interface: the class that the part must be of, or the Protocol whose methods it must have.
        offered: settings of ours, each for a target that takes it and finds none in the config.

    Raises:
        InputError: nothing of this name can be imported, it lacks a setting or a method, or does not know one.
    """
    from hydra.utils import get_object

    name = settings["_target_"]
    try:
        target = get_object(name)
        parameters = inspect.signature(target).parameters
    except Exception as error:  # whatever the module raises while it is imported
        reason = " ".join(str(error).split())
        raise InputError(f"{where}._target_: cannot load {name}: {reason}; is its folder in PYTHONPATH?") from error
    own = {key: value for key, value in settings.items() if key not in ("_target_", "kind")}
    own = {key: value for key, value in own.items() if value is not None or key in parameters}
    given = {key: value for key, value in (offered or {}).items() if key in parameters}
    part = call_with_settings(target, {**given, **own}, where=where)
    if interface is not None:
        check_interface(part, interface, where=where, name=name)
    return part


def check_interface(part: Any, interface: type, *, where: str, name: str) -> None:
    """An `InputError` unless `part` is of the class `interface`, or has the methods of it, if that is a Protocol."""
    if not getattr(interface, "_is_protocol", False):
        if not isinstance(part, interface):
            raise InputError(
                f"{where}._target_: {name} gives a {type(part).__name__}, expected a "
                f"{interface.__module__}.{interface.__qualname__}; docs/extend.md describes it"
            )
        return
    for attribute in getattr(interface, "__annotations__", {}):
        if not hasattr(part, attribute):
            raise InputError(f"{where}._target_: {name} has no attribute {attribute}; docs/extend.md describes it")
    for method, wanted in vars(interface).items():
        if not inspect.isfunction(wanted) or (method.startswith("_") and method != "__call__"):
            continue
        signature = inspect.signature(wanted)
        parameters = list(signature.parameters.values())[1:]
        shown = f"{method}({', '.join(p.name for p in parameters)})"
        own = getattr(part, method, None)
        if not callable(own):
            raise InputError(f"{where}._target_: {name} has no method {shown}; docs/extend.md describes it")
        by_name = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
        try:
            inspect.signature(own).bind(*[None] * (len(parameters) - len(by_name)), **by_name)
        except TypeError as error:
            raise InputError(
                f"{where}._target_: {name} has to take {shown}: {error}; docs/extend.md describes it"
            ) from error


def check_trusted(config: Any, trust: Iterable[str] | str, *, where: str = "") -> None:
    """An `InputError` for the first `_target_` in a loaded config, or a part of it, whose package is not trusted.

    trust: packages whose code may run, `my_lab` or `my_lab.nets`. where: the key of this part.
    """
    packages = [trust] if isinstance(trust, str) else list(trust)
    parts = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for name, value in parts:
        key = f"{where}.{name}" if where else str(name)
        trusted = value is None or any(f"{value}.".startswith(f"{package}.") for package in packages)
        if name == "_target_" and not trusted:
            package = str(value).partition(".")[0]
            raise InputError(
                f"{key}: {value}: loading this run would execute code of {package}; if you trust it, name the "
                f"package: trust=[{package}]"
            )
        check_trusted(value, packages, where=key)


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


def register_debug_signal_handlers(sig: int | None = None, handler: Any = None) -> None:
    """On the signal `sig` (SIGUSR1), print where every thread is; nothing on systems without it.

    handler: a signal handler to call instead.
    """
    sig = getattr(signal, "SIGUSR1", None) if sig is None else sig
    if sig is None:
        return
    if handler is not None:
        signal.signal(sig, handler)
    elif hasattr(faulthandler, "register"):
        faulthandler.register(sig, all_threads=True)
