"""Frozen parts: what `training_model.frozen_parts` names stays as it is while the rest of the networks trains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from saicinpainting.utils import InputError, did_you_mean

WHERE = "training_model.frozen_parts"


def frozen_parameters(patterns: Sequence[str], networks: Mapping[str, nn.Module]) -> frozenset[str]:
    """Names, as in a checkpoint, of the parameters that `patterns` freeze.

    Args:
        patterns: names of layers or parameters, with everything inside them. Between two dots may stand numbers from
            and to (`generator.model.0-4`), or a name with `*` and `?` (`generator.model.*.conv1`).
        networks: by the names that theirs begin with.

    Raises:
        InputError: a pattern that names nothing, or a network of which nothing would be left to train.
    """
    names = [f"{prefix}.{name}" for prefix, network in networks.items() for name, _ in network.named_parameters()]
    frozen = frozenset(name for name in names if _named_by(patterns, name))
    for pattern in patterns:
        if not any(_names(pattern, name) for name in names):
            depth = pattern.count(".") + 1
            parts = {".".join(name.split(".")[:depth]) for name in names if name.count(".") >= depth - 1}
            raise InputError(f"{WHERE}: {pattern} names no part with weights; {did_you_mean(pattern, parts)}")
    for prefix in networks:
        if frozen.issuperset(own := [name for name in names if name.startswith(f"{prefix}.")]) and own:
            raise InputError(f"{WHERE}: nothing of the {prefix} is left to train; leave some of its layers out")
    return frozen


def frozen_norms(patterns: Sequence[str], networks: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """The batch norms inside frozen parts."""
    for prefix, network in networks.items():
        for name, part in network.named_modules():
            if isinstance(part, _BatchNorm) and _named_by(patterns, f"{prefix}.{name}"):
                yield part


def _named_by(patterns: Iterable[str], name: str) -> bool:
    return any(_names(pattern, name) for pattern in patterns)


def _names(pattern: str, name: str) -> bool:
    """Whether `pattern` names this part, or one that it is inside of."""
    wanted, found = pattern.split("."), name.split(".")
    return len(wanted) <= len(found) and all(map(_same, wanted, found))


def _same(wanted: str, found: str) -> bool:
    numbers = re.fullmatch(r"(\d+)-(\d+)", wanted)
    if numbers is not None:
        return found.isdecimal() and int(numbers[1]) <= int(found) <= int(numbers[2])
    return fnmatchcase(found, wanted)
