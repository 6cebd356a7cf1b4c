"""Imports flow one way: utils -> evaluation -> training -> inference -> bin."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "saicinpainting"
LAYERS = {"evaluation": 1, "preparation": 2, "training": 2, "inference": 3}


def layer(module: str) -> int:
    """0 for what lies at the package's top, then evaluation, then training."""
    parts = module.split(".")
    return LAYERS.get(parts[1], 0) if len(parts) > 1 else 0


def imported_modules(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "saicinpainting"]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_goes_up(file: Path):
    own = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for name in imported_modules(file):
        assert layer(name) <= layer(own), f"{own} imports {name}"
        assert own != "saicinpainting.utils", f"utils imports {name}"


def test_the_rule_catches_an_import_that_goes_up(tmp_path: Path):
    (tmp_path / "x.py").write_text("from saicinpainting.training import trainers\n")
    assert max(layer(name) for name in imported_modules(tmp_path / "x.py")) > layer("saicinpainting.evaluation.x")
