"""docs/lama.ipynb, cell by cell, as Jupyter runs it but in a Python of its own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "lama.ipynb"

pytestmark = pytest.mark.slow


def program(cells: list[str]) -> str:
    """One program of all cells: lines of the shell as calls, and what a cell would show by `show`."""
    lines = ["import subprocess", "def shell(line): subprocess.run(line, shell=True, check=True)"]
    lines += ["def show(shown): shown is None or print('shown:', type(shown).__name__, shown.size)"]
    for cell in cells:
        text = "\n".join(f"shell(f{line[1:]!r})" if line.startswith("!") else line for line in cell.splitlines())
        *_, last = ast.parse(text).body
        if isinstance(last, ast.Expr) and not text.splitlines()[last.lineno - 1].startswith("shell("):
            kept = text.splitlines()[: last.lineno - 1]
            text = "\n".join([*kept, f"show({ast.unparse(last)})"])
        lines.append(text)
    return "\n".join(lines)


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) == 10
    assert not any(cell.get("outputs") for cell in cells)
    (tmp_path / "all.py").write_text(program(codes), encoding="utf-8")
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "all.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("shown: Image") == 3
    assert run.stdout.count("shown: PngImageFile") == 1
    assert run.stdout.count("shown: DataFrame") == 1
    assert (tmp_path / "runs" / "mine" / "models" / "last.ckpt").is_file()
