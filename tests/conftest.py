"""Marks by folder, the device of tests/gpu with TF32 off, and its rows for `make gpu`.

LAMA_GPU_TESTS_DEVICE=cpu gives tests/gpu the CPU, to try them where there is no CUDA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
# Folders and files whose tests start processes, train or fill large images: `make check` leaves them out, as it does
# what is marked as slow by itself, a second or more.
SLOW = (
    *("bin", "commands", "benchmarks", "gpu", "data/preparation", "evaluation", "inference", "training"),
    *("test_fuzz.py", "test_outside.py", "test_full_disk.py", "test_configs.py", "test_official_configs.py"),
    *("networks/test_conv_double_backward.py", "masks/test_segmentation.py", "metrics/test_segmentation.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1500, help="damaged files that tests/test_fuzz.py reads")


def _is_slow(path: Path) -> bool:
    return any(path.relative_to(TESTS).is_relative_to(slow) for slow in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make check` does not even import them."""
    return True if config.option.markexpr == "not slow" and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
        if item.path.is_relative_to(TESTS / "gpu"):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    if os.environ.get("LAMA_GPU_TESTS_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _float32_as_such() -> Iterator[None]:
    """TF32 keeps ten bits of a product's factors, which is less than these tests ask for."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A row a test, as it ends, for `make gpu`."""
    file = os.environ.get("LAMA_GPU_ROWS")
    if file and (report.when == "call" or report.outcome != "passed"):
        name = report.nodeid.partition("tests/gpu/")[2]
        row: dict[str, object] = {"case": name, "seconds": report.duration, "outcome": report.outcome}
        if report.failed:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            row["error"] = lines[0][1:].strip()[:300] if lines else "failed"
        with open(file, "a") as rows:
            rows.write(json.dumps(row) + "\n")
