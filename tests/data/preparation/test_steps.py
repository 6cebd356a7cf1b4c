"""Steps of a preparation: each is run once, and resumed only with the settings it was begun with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saicinpainting.data.preparation.steps import Archive, Preparation
from saicinpainting.io.download import Checksum
from saicinpainting.utils import InputError


class Steps(Preparation):
    """A preparation of the steps that a test gives."""

    def __init__(self, root: Path, steps: Callable[[Preparation], None]) -> None:
        super().__init__(root=root)
        self.steps = steps

    def describe(self) -> str:
        return "steps of a test"

    def run_steps(self) -> None:
        self.steps(self)


def run(root: Path, settings: dict[str, Any], work: Callable[[], str]) -> None:
    Steps(root, lambda preparation: preparation.run_once("images", settings, work)).make()


def write(root: Path, name: str) -> str:
    (root / "images").mkdir(exist_ok=True)
    (root / "images" / name).touch()
    return name


def test_a_finished_step_is_not_run_again(tmp_path, capsys):
    run(tmp_path, {"sizes": (1, 2)}, lambda: write(tmp_path, "a"))
    run(tmp_path, {"sizes": (1, 2)}, lambda: write(tmp_path, "b"))
    assert capsys.readouterr().out.splitlines()[-1] == "images: done before (a)"
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["a"]
    with pytest.raises(InputError, match=r"images was made with other settings .*now {'sizes': \[1, 3\]}.*prepared"):
        run(tmp_path, {"sizes": (1, 3)}, lambda: write(tmp_path, "b"))


def test_a_step_that_was_cut_off_is_resumed_with_its_own_settings_only(tmp_path):
    def cut_off() -> str:
        write(tmp_path, "a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"source": "A"}, cut_off)
    with pytest.raises(InputError, match="images was made with other settings"):
        run(tmp_path, {"source": "B"}, lambda: write(tmp_path, "b"))
    run(tmp_path, {"source": "A"}, lambda: write(tmp_path, "b"))
    assert {file.name for file in (tmp_path / "images").iterdir()} == {"a", "b"}


def test_a_step_that_failed_before_it_wrote_anything_may_be_run_with_other_settings(tmp_path):
    def fails() -> str:
        raise InputError("the wrong archive")

    with pytest.raises(InputError, match="the wrong archive"):
        run(tmp_path, {"source": "A"}, fails)
    run(tmp_path, {"source": "B"}, lambda: write(tmp_path, "b"))
    last = json.loads((tmp_path / ".prepared.jsonl").read_text().splitlines()[-1])
    assert last == ["images", [{"source": "B"}, "b"]]


def test_an_archive_on_a_mirror_keeps_the_query_behind_its_name():
    archive = Archive("a.tar", "http://first/places/a.tar", 5, Checksum("md5", "0" * 32))
    assert archive.on_mirror(None, {}) == archive
    mirrored = archive.on_mirror("http://mirror/data/?token=x", {"a.tar": Checksum("md5", "1" * 32)})
    assert mirrored == Archive("a.tar", "http://mirror/data/a.tar?token=x", 5, Checksum("md5", "1" * 32))
