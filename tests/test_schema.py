"""Sections of a config that become dataclasses, or one line that says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from saicinpainting.schema import describe, known_keys, read_section
from saicinpainting.training.run import CONFIG_SECTIONS
from saicinpainting.utils import InputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """
    Args:
        size: in pixels.
    """

    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a section may hold.

    Args:
        name: what it is called, in a text of
            two lines.
        weight: how much it counts.
        sizes: a list.
        mode: how.
        inner: a section inside it.
        maybe: another one, or none.
        rest: whatever else.
    """

    name: str
    weight: float = 1
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    mode: bool | Literal["auto", "never"] = "auto"
    inner: Inner = Inner()
    maybe: Inner | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def test_values_arrive_and_what_is_not_set_has_its_default():
    assert read_section(Section, {"name": "a"}, where="s") == Section(name="a")
    settings = {
        "name": "b",
        "weight": 2,
        "sizes": [],
        "mode": True,
        "inner": {"size": 5},
        "maybe": {},
        "rest": {1: 2},
    }
    assert read_section(Section, settings, where="s") == Section(
        name="b", weight=2, sizes=[], mode=True, inner=Inner(size=5), maybe=Inner(), rest={1: 2}
    )
    assert read_section(Section, {"name": "a", "inner": None, "maybe": None}, where="s") == Section(name="a")
    assert read_section(Inner, None, where="s") == Inner()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nam": "a"}, r"^s\.nam: unknown config key; known: .*\(did you mean 'name'\?\)$"),
        ({}, r"^s\.name: missing config key; set it to text$"),
        ({"name": 5}, r"^s\.name: expected text, got 5$"),
        ({"name": None}, r"^s\.name: expected text, got None$"),
        ({"name": "a", "weight": True}, r"^s\.weight: expected a number, got True$"),
        ({"name": "a", "weight": "1"}, r"^s\.weight: expected a number, got '1'$"),
        ({"name": "a", "sizes": [1, 2.5]}, r"^s\.sizes: expected a list, each a whole number, got \[1, 2\.5\]$"),
        ({"name": "a", "sizes": "12"}, r"^s\.sizes: expected a list"),
        ({"name": "a", "mode": "false"}, r"^s\.mode: expected true, false, auto or never, got 'false'$"),
        ({"name": "a", "mode": 1}, r"^s\.mode: expected true, false, auto or never, got 1$"),
        ({"name": "a", "inner": {"siz": 1}}, r"^s\.inner\.siz: unknown config key; known: size \(did you mean 'size'"),
        ({"name": "a", "inner": 3}, r"^s\.inner: expected a mapping of settings, got 3$"),
        ({"name": "a", "maybe": {"size": "x"}}, r"^s\.maybe\.size: expected a whole number, got 'x'$"),
        ("text", r"^s: expected a mapping of settings, got 'text'$"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(settings: Any, message: str):
    with pytest.raises(InputError, match=message):
        read_section(Section, settings, where="s")


def test_dataclasses_can_share_a_section():
    assert read_section(Inner, {"size": 4, "name": "of another"}, where="s", only=False) == Inner(size=4)
    assert known_keys(Inner, Section)[:2] == ["size", "name"]


def test_a_section_describes_itself():
    assert [tuple(key) for key in describe(Section)] == [
        ("name", "text", "", "what it is called, in a text of two lines."),
        ("weight", "a number", "1", "how much it counts."),
        ("sizes", "a list, each a whole number", "[1, 2]", "a list."),
        ("mode", "true, false, auto or never", "auto", "how."),
        ("inner", "a mapping of settings", "", "a section inside it."),
        ("inner.size", "a whole number", "3", "in pixels."),
        ("maybe", "a mapping of settings or null", "null", "another one, or none."),
        ("maybe.size", "a whole number", "3", "in pixels."),
        ("rest", "a mapping of settings", "{}", "whatever else."),
    ]


@pytest.mark.parametrize("section", CONFIG_SECTIONS)
def test_every_key_of_a_training_config_is_explained(section: str):
    keys = [key for part in CONFIG_SECTIONS[section] for key in describe(part)]
    assert [key.key for key in keys if not key.text.endswith((".", "…", "`"))] == []
    assert len({key.key for key in keys}) == len(keys)
