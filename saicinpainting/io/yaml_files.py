"""YAML files that may be a stranger's: what they hold, unless it is made to take time or memory."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from saicinpainting.io.budgets import DEEPEST, BudgetError, check_nesting
from saicinpainting.utils import InputError

MOST_VALUES = 20_000
"""With what aliases repeat. The largest config of ours has a few hundred."""
MOST_BYTES = 1 << 20
LONGEST_NUMBER = 40
"""Characters; YAML's numbers of base 60 (1:30:00) take the square of their length, and Python shows no longer ones."""


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Counts what aliases stand for before anything is made of it: merge keys copy it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise BudgetError(f"its values are nested deeper than {DEEPEST}")
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if node is None or id(node) in self._sizes:
            return node
        value = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for one in value for part in (one if isinstance(one, tuple) else (one,))]
        if any(id(part) not in self._sizes for part in parts):
            raise BudgetError("a value that holds itself")
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts)
        if size > MOST_VALUES:
            raise BudgetError(f"it has more than {MOST_VALUES} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Hashable:
        if isinstance(node, yaml.ScalarNode):
            if node.tag == "tag:yaml.org,2002:timestamp":
                node.tag = "tag:yaml.org,2002:str"  # configs have no dates
            if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
                raise BudgetError(f"a number of {len(node.value)} characters")
        return super().construct_object(node, deep)  # type: ignore[no-any-return]


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: it is no YAML, or holds more than a config does.
        OSError: it cannot be read.
    """
    data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    try:
        if data is None:
            raise BudgetError(f"it has more than {MOST_BYTES} bytes")
        loader = _Loader(data.decode("utf-8"))
        try:
            content = loader.get_single_data()  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
        check_nesting(content, MOST_VALUES)
    except Exception as error:  # a tag may name a type that its text does not fit, with errors of any kind
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())[:300]}") from error
    return content
