"""Every command: the same function behind `lama-NAME` and `bin/NAME.py`, and help without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.commands import to_jit
from saicinpainting.utils import InputError
from tests.helpers import photo, run_script

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "saicinpainting" / "commands").glob("*.py") if path.stem != "__init__")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HELP = """
import runpy, sys
sys.argv = ["lama-command", "--help"]
try:
    runpy.run_module("saicinpainting.commands.{name}", run_name="__main__")  # what python -m does
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules, "torch was imported"
"""


def test_every_command_is_an_entry_point_and_a_file_of_bin():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entries == {f"lama-{name.replace('_', '-')}": f"saicinpainting.commands.{name}:main" for name in NAMES}
    assert sorted(path.stem for path in (ROOT / "bin").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_help_loads_no_torch(name: str, tmp_path: Path):
    code = HELP.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower() or "== Config ==" in done.stdout


def test_to_jit_takes_the_official_words():
    words = ["model.path=a=b (1)", "save_path=-x.pt"]
    assert to_jit.translated(words) == ["--", "a=b (1)", "-x.pt"]
    assert to_jit.translated([words[0], "+save_path=-x.pt"]) == to_jit.translated(words)
    assert to_jit.translated([*words, "model.checkpoint=last.ckpt"])[:2] == ["--checkpoint", "last.ckpt"]
    assert to_jit.translated(["RUN", "OUT.pt"]) == ["RUN", "OUT.pt"]
    for wrong, message in ((words[:1], "save_path= is missing"), ([*words, "save_pat=x"], "save_pat: unknown word")):
        with pytest.raises(InputError, match=message):
            to_jit.translated(wrong)


def test_results_do_not_go_among_the_masks_but_may_lie_in_a_folder_there(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder, pixels in ((images, photo(size=32)), (masks, np.eye(32, dtype=np.uint8) * 255)):
        folder.mkdir()
        Image.fromarray(pixels).save(folder / "a.png")
    for outdir, status, message in (
        (masks, 1, f"error: outdir={masks}: the masks are there"),
        (masks / "results", 0, "1 images written"),
        (masks / "results", 0, "1 were there already"),
    ):
        run = run_script("predict.py", f"indir={images}", f"mask.path={masks}", f"outdir={outdir}", cwd=tmp_path)
        assert run.returncode == status, run.stderr
        assert message in run.stdout + run.stderr
