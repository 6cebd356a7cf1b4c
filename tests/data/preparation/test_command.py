"""The way from a preparation to a location config."""

from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.data.preparation.command import make_parser, prepare, shared_settings
from saicinpainting.data.preparation.steps import Preparation
from saicinpainting.utils import InputError


class Counted(Preparation):
    """Counts how often it was made."""

    made = 0

    def describe(self) -> str:
        return "a data set"

    def run_steps(self) -> None:
        Counted.made += 1


def prepare_in(root: Path, *more: str) -> int:
    """How often the work was begun; location configs are in `root`."""
    args = make_parser(None, location="mine").parse_args(
        [str(root / "data"), "--location-dir", str(root), "--results", str(root), *more]
    )
    prepare(args, Counted(**shared_settings(args)), config="lama-fourier")
    return Counted.made


def test_a_location_that_is_taken_is_found_before_the_work(tmp_path, monkeypatch):
    Counted.made = 0
    prepare_in(tmp_path)
    assert prepare_in(tmp_path) == 2  # its own may be there
    (tmp_path / "mine.yaml").write_text("data_root_dir: /mine\n")
    with pytest.raises(InputError, match=r"mine\.yaml exists and says something else; choose another --location"):
        prepare_in(tmp_path)
    with pytest.raises(InputError, match=r"--location-dir: no folder .*absent"):
        prepare_in(tmp_path, "--location-dir", str(tmp_path / "absent"))
    with monkeypatch.context() as patch:  # root may write anywhere
        patch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(InputError, match=r"cannot be written; choose FOLDER/location.*--config-dir FOLDER"):
            prepare_in(tmp_path, "--location", "third")
    assert Counted.made == 2
    assert (tmp_path / "mine.yaml").read_text() == "data_root_dir: /mine\n"
    assert prepare_in(tmp_path, "--location", "other") == 3
