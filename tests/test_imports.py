"""Imports go down, from `commands` to `io`; thin modules of official paths stand above and nobody needs them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "saicinpainting"
ROOMS = (
    ("utils",),
    ("schema", "overrides"),
    ("io",),
    ("config",),
    ("official_configs",),
    ("networks", "masks"),
    ("losses", "data", "metrics"),
    ("inference", "training"),
    ("evaluation",),
    ("cli",),
    ("commands",),
)
"""From the lowest up; rooms of a row know nothing of each other."""
OFFICIAL = (
    *("training.modules", "training.data", "training.losses", "training.trainers", "training.visualizers"),
    *("evaluation.masks", "evaluation.losses", "evaluation.data", "evaluation.evaluator", "evaluation.refinement"),
    *("evaluation.utils", "evaluation.metrics"),
)


def is_official(module: str) -> bool:
    inner = module.removeprefix("saicinpainting.")
    return any(inner == path or inner.startswith(path + ".") for path in OFFICIAL)


def row(module: str) -> int:
    room = module.split(".")[1]
    return next(i for i, rooms in enumerate(ROOMS) if room in rooms)


def imported_modules(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "saicinpainting":
            names |= {f"saicinpainting.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.startswith("saicinpainting.")}


def fault(own: str, imported: str) -> str | None:
    """What is wrong with an import of a module by another."""
    if is_official(own) or own == "saicinpainting":
        return None
    if is_official(imported):
        return f"{own} imports {imported}, an official path"
    same_room = own.split(".")[1] == imported.split(".")[1]
    if row(imported) > row(own) or (row(imported) == row(own) and not same_room):
        return f"{own} imports {imported}"
    return None


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_goes_up(file: Path):
    own = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    faults = [found for name in imported_modules(file) if (found := fault(own, name))]
    assert not faults


def test_the_rule_catches_imports_that_go_up_and_aside():
    assert fault("saicinpainting.networks.x", "saicinpainting.training.module")
    assert fault("saicinpainting.data.x", "saicinpainting.metrics.fid")
    assert fault("saicinpainting.inference.x", "saicinpainting.evaluation.data")
    assert not fault("saicinpainting.inference.x", "saicinpainting.networks.load")


@pytest.mark.slow
def test_the_predictor_loads_nothing_of_training():
    heavy = ("pytorch_lightning", "torchmetrics", "albumentations", "gradio", "tensorboard")
    code = (
        f"import sys; from saicinpainting.inference.inpainter import Inpainter; print(*{{*{heavy}}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
