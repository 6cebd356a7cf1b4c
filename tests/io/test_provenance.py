"""Results of other settings are not taken for these."""

from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.io.provenance import Provenance
from saicinpainting.utils import InputError

SETTINGS = {"seed": 0, "config": {"kind": "random", "boxes": {"most": 4}}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "seed": 1}, r"seed: 0, now 1"),
        ({"seed": 0, "config": {"kind": "random"}}, r"config\.boxes: \{'most': 4\}, now None"),
        ({"config": SETTINGS["config"]}, r"seed: 0, now None"),
        ({**SETTINGS, "size": 512}, r"size: None, now 512"),
    ],
)
def test_a_setting_that_is_changed_added_or_gone_is_named(settings: dict, message: str, tmp_path: Path):
    Provenance(tmp_path, ".made").begin(SETTINGS)
    Provenance(tmp_path, ".made").check(SETTINGS, what="images", remedy="remove them")
    with pytest.raises(InputError, match=rf"{message}\); remove them"):
        Provenance(tmp_path, ".made").check(settings, what="images", remedy="remove them")


def test_half_a_line_is_dropped_and_what_is_done_is_known(tmp_path: Path):
    first = Provenance(tmp_path, ".made")
    first.begin(SETTINGS)
    first.add("a.png", 1)
    with open(tmp_path / ".made.jsonl", "a") as file:
        file.write('["b.png", ')
    assert Provenance(tmp_path, ".made").done == {"a.png": 1}


def test_processes_note_results_in_files_of_their_own_until_the_next_start(tmp_path: Path):
    Provenance(tmp_path, ".made").begin(SETTINGS)
    for rank in (0, 1, 12):
        Provenance(tmp_path, ".made", rank).add(f"{rank}.png", rank)
    with open(tmp_path / ".made.1.jsonl", "a") as file:
        file.write('["b.png", ')  # it was killed
    next_start = Provenance(tmp_path, ".made")
    assert next_start.done == {"0.png": 0, "1.png": 1, "12.png": 12}
    next_start.check(SETTINGS, what="images", remedy="remove them")
    next_start.begin(SETTINGS)
    assert {file.name for file in tmp_path.iterdir()} == {".made.json", ".made.jsonl"}
    assert Provenance(tmp_path, ".made").done == next_start.done


@pytest.mark.parametrize(("name", "text"), [(".made.json", "[]"), (".made.json", "{"), (".made.jsonl", "5\n")])
def test_damage_is_one_line(name: str, text: str, tmp_path: Path):
    Provenance(tmp_path, ".made").begin(SETTINGS)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"\.made\.json or \.jsonl is damaged"):
        Provenance(tmp_path, ".made")


def test_files_of_unknown_origin_are_not_added_to(tmp_path: Path):
    (tmp_path / "mine.png").write_bytes(b"")
    with pytest.raises(InputError, match="is not empty and holds no images begun here"):
        Provenance(tmp_path, ".made").check(SETTINGS, what="images", remedy="use another folder")
