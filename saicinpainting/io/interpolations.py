"""How much a config becomes when its interpolations are resolved, before they are: OmegaConf resolves each anew."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from saicinpainting.utils import InputError

MOST = 300_000
"""Characters, of which a value counts as `OF_A_VALUE`."""
OF_A_VALUE, OF_A_RESOLVER = 10, 200
MOST_STEPS = 50
MOST_PLACES = 100_000
"""That are looked at; the same values may be reached by many names."""
LONGEST = 2000
"""Characters of a text with interpolations: OmegaConf's parser takes a tenth of a millisecond for each."""
_OPENS = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
"""An interpolation that is not escaped."""
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
Place = tuple[str, ...]


def check_interpolations(content: Any, names: Iterable[str]) -> None:
    """An `InputError` if the sections `names` of a config, plain values, would become larger than any config is."""
    sizes = _Sizes(content)
    for name in names:
        sizes.of((str(name),), 0)


class _Sizes:
    def __init__(self, content: Any) -> None:
        self._content, self._known, self._values = content, dict[Place, int](), dict[Place, Any]()

    def of(self, place: Place, steps: int) -> int:
        """The size of the value at `place`, resolved."""
        if place not in self._known:
            if steps > MOST_STEPS:
                raise InputError(f"config: {'.'.join(place)}: interpolations or values more than {MOST_STEPS} deep")
            if len(self._known) + len(self._values) > MOST_PLACES:
                raise InputError(f"config: more than {MOST_PLACES} values by its interpolations ${{…}}")
            self._known[place] = size = self._size(place, self._value(place, steps), steps + 1)
            if size > MOST:
                raise InputError(f"config: {'.'.join(place)}: becomes too large by its interpolations ${{…}}")
        return self._known[place]

    def _size(self, place: Place, value: Any, steps: int) -> int:
        if isinstance(value, dict):
            return OF_A_VALUE + sum(self.of((*place, str(key)), steps) for key in value)
        if isinstance(value, list):
            return OF_A_VALUE + sum(self.of((*place, str(i)), steps) for i in range(len(value)))
        if not isinstance(value, str):
            return OF_A_VALUE
        size = OF_A_VALUE + len(value)
        if "${" in value and len(value) > LONGEST:
            raise InputError(f"config: {'.'.join(place)}: an interpolation in a text of {len(value)} characters")
        for found in _INNERMOST.findall(value):
            size += self._size_of_reference(place, found, steps)
        left = _INNERMOST.sub("", value)
        if _OPENS.search(left):
            raise InputError(
                f"config: {'.'.join(place)}: {value[:100]!r}: an interpolation in another one; write it out"
            )
        return size

    def _size_of_reference(self, place: Place, reference: str, steps: int) -> int:
        if reference.count("[") > MOST_STEPS:  # OmegaConf's parser recurses
            raise InputError(f"config: {'.'.join(place)}: an interpolation with lists more than {MOST_STEPS} deep")
        resolver, colon, argument = reference.partition(":")
        if not colon:
            return self.of(_target(place, reference), steps)
        if resolver == "oc.select":
            return OF_A_RESOLVER + len(argument) + self.of(_target(place, argument.partition(",")[0].strip()), steps)
        if resolver.startswith("oc.") and resolver != "oc.env":
            raise InputError(f"config: {'.'.join(place)}: ${{{resolver}:…}} is not read; write the value out")
        return OF_A_RESOLVER + len(reference)

    def _value(self, place: Place, steps: int) -> Any:
        """What stands at `place`, with interpolations on the way followed; None where there is nothing."""
        if place not in self._values:
            self._values[place] = self._look_up(place, steps)
        return self._values[place]

    def _look_up(self, place: Place, steps: int) -> Any:
        value = self._content
        for depth, key in enumerate(place):
            for _ in range(MOST_STEPS):
                found = _INNERMOST.fullmatch(value) if isinstance(value, str) else None
                if found is None or ":" in found[1]:
                    break
                rest = _target(place[:depth], found[1])
                if steps > MOST_STEPS:
                    raise InputError(f"config: {'.'.join(place)}: interpolations more than {MOST_STEPS} deep")
                value = self._value(rest, steps + 1)
            if isinstance(value, dict):
                value = value.get(key, value.get(int(key)) if key.isdecimal() and len(key) < 10 else None)
            elif isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value


def _target(place: Place, reference: str) -> Place:
    """The place that `${reference}` at `place` means; each dot before it is a level up."""
    up = len(reference) - len(reference.lstrip("."))
    return (*place[: len(place) - up if up else 0], *re.findall(r"[^.\[\]\s]+", reference))
