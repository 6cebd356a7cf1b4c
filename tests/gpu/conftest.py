"""Tests of a CUDA device, TF32 off. LAMA_GPU_TESTS_DEVICE=cpu gives them the CPU, to try them where there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import torch


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
