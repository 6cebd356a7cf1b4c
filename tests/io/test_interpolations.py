from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from saicinpainting.config import register_resolvers, resolved_sections
from saicinpainting.utils import InputError

PLAIN = {"generator": {"kind": "ffc_resnet", "ngf": 64}}


def doubled(make: str, levels: int = 60) -> dict[str, Any]:
    content: dict[str, Any] = {"a0": "x"}
    for i in range(1, levels):
        last = f"a{i - 1}"
        content[f"a{i}"] = {
            "text": f"${{{last}}}${{{last}}}",
            "maps": {"l": f"${{{last}}}", "r": f"${{{last}}}"},
            "relative": {"l": f"${{..{last}}}", "r": f"${{..{last}}}"},
            "list": [f"${{{last}}}"] * 2,
            "brackets": f"${{[{last}]}}${{[{last}]}}",
        }[make]
    return {**content, "generator": {"kind": f"${{a{levels - 1}}}"}}


BOMBS = {
    **{make: doubled(make) for make in ("text", "maps", "relative", "list", "brackets")},
    "itself": {"generator": {"kind": "${generator.kind}"}},
    "its own section": {"generator": {"kind": "${generator}"}},
    "in another one": {"generator": {"kind": "${generator.${generator.x}}", "x": "y", "y": 1}},
    "in another one, behind an escaped one": {"generator": {"kind": "\\${ ${b.${n}}"}, "n": "k", "b": {"k": 1}},
    "in another one, behind a backslash": {"generator": {"kind": "\\\\${b.${n}}"}, "n": "k", "b": {"k": 1}},
    "a long text": {"generator": {"kind": "x" * 100_000 + "${env:USER}"}},
    "deep lists as a default": {"generator": {"kind": "${env:NO_SUCH_VARIABLE," + "[" * 900 + "]" * 900 + "}"}},
    "one value by many names": {
        "p": {"s": [1] * 9000},
        **{f"a{i}": "${p}" for i in range(200)},
        "generator": {f"k{i}": f"${{a{i}.s}}" for i in range(200)},
    },
    "no interpolation": {"generator": {"kind": "${a${n}}"}},
    "select": {"generator": {"kind": "${oc.select:generator.kind}"}},
    "decode": {"generator": {"kind": "${oc.decode:'[1, 2]'}"}},
}


@pytest.mark.parametrize("name", BOMBS)
def test_interpolations_that_are_made_to_harm_are_refused(name: str):
    with pytest.raises(InputError, match=r"^config: ") as error:
        resolved_sections(BOMBS[name], ["generator"])
    assert len(str(error.value)) < 500


def test_interpolations_of_a_usual_kind_resolve_as_before(tmp_path: Path):
    register_resolvers()
    config = {
        "generator": {"a": "${data.size}", "b": "${.a}", "c": ["${..a}", "x_${data.name}_${env:USER}"], "d": "${data}"},
        "data": {"size": 3, "name": "${more.name}", "list": [1, 2], "first": "${.list[0]}", "e": "\\${x}"},
        "more": {"name": "n"},
    }  # fmt: skip
    expected = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert resolved_sections(config, ["generator"]) == {"generator": expected["generator"]}


def test_a_selected_value_counts_as_a_reference() -> None:
    sections = resolved_sections({"a": {"x": "${oc.select:b.y,3}", "z": "${oc.select:b.none,3}"}, "b": {"y": 4}}, ["a"])
    assert sections == {"a": {"x": 4, "z": 3}}
    content: dict[str, Any] = {f"k{i}": f"${{oc.select:k{i + 1}}}${{oc.select:k{i + 1}}}" for i in range(40)}
    with pytest.raises(InputError, match="too large"):
        resolved_sections({**content, "k40": "x" * 100, "a": {"x": "${k0}"}}, ["a"])
