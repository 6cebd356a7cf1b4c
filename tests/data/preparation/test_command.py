"""The way from a plan to a location config."""

from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.data.preparation.command import add_shared_arguments, carry_out, make_parser
from saicinpainting.utils import InputError


class Plan:
    def describe(self) -> str:
        return "a plan"


def carry_out_in(root: Path, *more: str, prepared: list[Path]) -> None:
    """`prepared` gets the folder when the work begins; location configs are in `root`."""
    parser = make_parser(None)
    add_shared_arguments(parser, eval_sets=(), location="mine")
    args = parser.parse_args([str(root / "data"), "--location-dir", str(root), "--results", str(root), *more])
    carry_out(args, Plan(), lambda folder, *_: prepared.append(folder), config="lama-fourier")


def test_a_location_that_is_taken_is_found_before_the_work(tmp_path):
    prepared: list[Path] = []
    carry_out_in(tmp_path, prepared=prepared)
    carry_out_in(tmp_path, prepared=prepared)  # its own may be there
    assert len(prepared) == 2
    (tmp_path / "mine.yaml").write_text("data_root_dir: /mine\n")
    with pytest.raises(InputError, match=r"mine\.yaml exists and says something else; choose another --location"):
        carry_out_in(tmp_path, prepared=prepared)
    with pytest.raises(InputError, match=r"--location-dir: no folder .*absent"):
        carry_out_in(tmp_path, "--location-dir", str(tmp_path / "absent"), prepared=prepared)
    assert len(prepared) == 2
    assert (tmp_path / "mine.yaml").read_text() == "data_root_dir: /mine\n"
    carry_out_in(tmp_path, "--location", "other", prepared=prepared)
    assert len(prepared) == 3
