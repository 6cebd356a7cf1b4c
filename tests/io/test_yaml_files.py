from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.utils import InputError


def aliases(made: str, levels: int = 9) -> str:
    return "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {made.replace('LAST', f'*a{i - 1}').replace('I', str(i))}\n" for i in range(1, levels)
    )


BOMBS = {
    "lists of aliases": aliases("[LAST, LAST, LAST, LAST, LAST, LAST, LAST, LAST, LAST, LAST]"),
    "maps of aliases": aliases("{a: LAST, b: LAST}", 40),
    "merged maps": aliases("{<<: [LAST, LAST], bI: 1}", 40),
    "an alias of what it is in": "a: &a [*a]",
    "deep lists": "a: " + "[" * 20_000,
    "deep maps": "".join(" " * i + "a:\n" for i in range(2000)),
    "a long number": "a: " + "9" * 100_000,
    "a number of base 60": "a: 1" + ":20" * 300_000,
    "a number that Python writes down nowhere": "a: 0x" + "f" * 100_000,
    "megabytes of remarks": "#" * (2 << 20),
    "a tag that its text does not fit": "a: !!int ''",
    "no truth": "a: !!bool maybe",
    "a tag of Python's": "a: !!python/object/apply:os.system [true]",
    "a list as a key": "? [a]\n: b",
    "many values": "a: [" + "1," * 30_000 + "]",
    "a control character": "a: \x00",
    "an unknown alias": "a: *b",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_yaml_file_that_is_made_to_harm_is_refused(tmp_path: Path, name: str):
    (tmp_path / "config.yaml").write_text(BOMBS[name])
    with pytest.raises(InputError, match=r"config\.yaml is no valid YAML") as error:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str):
    (tmp_path / "config.yaml").write_text("a: é", encoding=encoding)
    with pytest.raises(InputError, match=r"config\.yaml is no valid YAML"):
        read_yaml(tmp_path / "config.yaml")


def test_aliases_of_a_usual_size_are_read(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("a: &a {x: 1, y: [2, 2001-02-03]}\nb: *a\nc: {<<: *a, x: 3}\n")
    content = read_yaml(tmp_path / "config.yaml")
    assert content["b"] == content["a"] == {"x": 1, "y": [2, "2001-02-03"]}
    assert content["c"] == {"x": 3, "y": [2, "2001-02-03"]}
