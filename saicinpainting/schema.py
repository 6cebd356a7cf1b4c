"""Sections of a config as dataclasses: the fields are the known keys, their types are checked, docstrings explain them.

A field's type is one of bool, int, float, str, `Literal`, `list`, `dict`, a dataclass (a section inside the section),
`Any`, or a union of them.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from saicinpainting.utils import InputError, check_known_keys

T = TypeVar("T")

NO_KEY = {"key": False}
"""Metadata of a field that is no config key: the program sets it."""
_NAMES = {int: "a whole number", float: "a number", str: "text", type(None): "null", list: "a list"}
_NAMES |= {dict: "a mapping of settings", Any: "anything"}


class Key(NamedTuple):
    """A key of a section for its reference page; `type` and `text` are plain English, `default` is as in YAML."""

    key: str
    type: str
    default: str
    text: str


def read_section(section: type[T], settings: Mapping[str, Any] | None, *, where: str, only: bool = True) -> T:
    """Make a `section`, a dataclass, of the settings at `where` in the config; None stands for no settings.

    Args:
        section: the dataclass. Its own `__post_init__` may check more.
        settings: plain values, resolved.
        where: the config key they come from, for errors.
        only: refuse other keys; otherwise they are left out, as in a section that several dataclasses share.

    Raises:
        InputError: an unknown key, one of a wrong type, or one that is missing and has no default.
    """
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise InputError(f"{where}: expected a mapping of settings, got {settings!r}")
    known = _fields(section)
    if only:
        check_known_keys(settings, known, where=where)
    values = {}
    for name, (field, hint) in known.items():
        if name in settings:
            values[name] = _checked(settings[name], hint, where=f"{where}.{name}")
        elif _default(field) is MISSING:
            raise InputError(f"{where}.{name}: missing config key; set it to {_in_words(hint)}")
    return section(**values)


def known_keys(*sections: type) -> list[str]:
    """The keys of a section that these dataclasses share."""
    return [name for section in sections for name in _fields(section)]


def describe(section: type) -> list[Key]:
    """The keys of a section, those of the sections inside it after them with their path (`l1.weight_known`)."""
    found = []
    texts = _texts(section)
    for name, (field, hint) in _fields(section).items():
        default = _default(field)
        inner = next((part for part in _parts(hint) if is_dataclass(part)), None)
        shown = "" if default is MISSING or is_dataclass(default) else _as_yaml(default)
        found.append(Key(name, _in_words(hint), shown, texts.get(name, "")))
        if inner is not None:
            found += [key._replace(key=f"{name}.{key.key}") for key in describe(inner)]  # type: ignore[arg-type]
    return found


def _fields(section: type) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(section)
    keys = [field for field in fields(section) if field.init and field.metadata != NO_KEY]  # type: ignore[arg-type]
    return {field.name: (field, hints[field.name]) for field in keys}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _parts(hint: Any) -> list[Any]:
    """The members of a union, or the type alone."""
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _checked(value: Any, hint: Any, *, where: str) -> Any:
    for part in _parts(hint):
        if is_dataclass(part):
            if isinstance(value, Mapping) or (value is None and part is hint):
                return read_section(part, value, where=where)  # type: ignore[arg-type]
        elif _fits(value, part):
            return value
    raise InputError(f"{where}: expected {_in_words(hint)}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is list:
        items = get_args(hint) or (Any,)
        return isinstance(value, (list, tuple)) and all(any(_fits(v, p) for p in _parts(items[0])) for v in value)
    if kind in (int, float):  # true is no number, and 1 is one with a point
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, Mapping if kind is dict else kind)


def _in_words(hint: Any) -> str:
    words = [word for part in _parts(hint) for word in _words(part)]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _words(hint: Any) -> list[str]:
    """What a value of this type, which is no union, may be."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is list and get_args(hint):
        return [f"a list, each {_in_words(get_args(hint)[0])}"]
    if hint is bool:
        return ["true", "false"]
    return [_NAMES[dict] if is_dataclass(hint) else _NAMES[get_origin(hint) or hint]]


def _as_yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _texts(section: type) -> dict[str, str]:
    """Name -> text from the part `Args:` of the docstrings of the dataclass and those it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        _, _, arguments = (cls.__dict__.get("__doc__") or "").partition("Args:\n")
        for entry in re.split(r"\n\s*(?=\w+: )", "\n" + arguments.split("\n\n")[0].rstrip()):
            name, colon, text = entry.strip().partition(": ")
            if colon:
                found[name] = " ".join(text.split())
    return found
