"""The benchmarks run, shrunk: as scripts, and what they do on a GPU with a CPU in its place."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import ROOT

SMALL = ["generator.ngf=4", "generator.n_blocks=1", "discriminator.ndf=4", "losses.resnet_pl.weight=0"]


def rows_of(folder: Path, name: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows that benchmarks/NAME.py writes."""
    file = folder / "rows.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments, "--json", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert run.returncode == 0, run.stderr
    return json.loads(file.read_text())["rows"]


def test_fourier_unit(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "fourier_unit", "--sizes", "8", "--rounds", "1", "--devices", "cpu", "--threads", "1")
    assert len(rows) == 6
    assert all(row["seconds"] > 0 for row in rows)
    assert 0 < rows[2]["difference"] < 1e-4
    assert [row["variant"] for row in rows if "(auto)" in row["variant"]] == ["products (auto)"] * 2


def test_r1_backward(tmp_path: Path) -> None:
    small = ["--batch", "2", "--size", "64", "--ndf", "4", "--rounds", "1", "--threads", "1"]
    rows = rows_of(tmp_path, "r1_backward", "--device", "cpu", *small)
    assert [row["variant"] for row in rows] == ["plain", "ours"] * 2
    assert [row["large_kernels"] > 0 for row in rows] == [True, False] * 2
    assert rows[1]["difference"] < 1e-4
    assert rows[3]["difference"] < 0.1


def test_data(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "data", "--rounds", "1", "--workers", "0", "--samples", "10")
    assert {row["case"].split()[0] for row in rows} == {"sample", "part", "loader"}


def test_metrics(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "metrics", "--images", "500", "--features", "16", "--no-ids", "--threads", "1")
    assert rows[1]["difference"] < 1e-6


def test_fast_losses_of_curves_that_are_there(tmp_path: Path) -> None:
    names = ("gen_l1", "gen_fm", "gen_resnet_pl", "gen_adv", "discr_adv")
    variants = {"float32": 1.0, "fast": 1.1, "contiguous": 1.0}
    curves = {v: {"seconds": 1.0, "losses": {n: list(np.linspace(2, 1, 100) * f) for n in names}}
              for v, f in variants.items()}  # fmt: skip
    (tmp_path / "curves.json").write_text(json.dumps(curves))
    rows = rows_of(tmp_path, "fast_losses", "--curves", "curves.json", "--plot", "curves.png")
    assert [row["drift"] for row in rows if row["case"].startswith("gen_l1")] == pytest.approx([0, 0.1, 0])
    assert (tmp_path / "curves.png").stat().st_size > 0


# ---- what they do on a GPU -------------------------------------------------------------------------------------------


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts can be imported as they import each other."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_training_steps_in_bursts(scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that fails leaves the others their rows."""
    import train_step
    from common import failed

    monkeypatch.setattr(train_step, "in_turns", train_step.one_by_one)
    # Not known to the process that is to run it.
    monkeypatch.setitem(train_step.VARIANTS, "broken", [])
    args = argparse.Namespace(config="lama-fourier", size=64, device="cpu", rounds=1, threads=1, overrides=SMALL)
    args.variants = ["broken", "default", "fast"]
    broken, *rows = train_step.measure(args, 2, str(tmp_path))
    assert broken["error"] == "KeyError: 'broken'"
    assert [row["variant"] for row in rows] == ["default", "fast"]
    assert all(row["seconds"] > 0 and row["tflop"] > 0 for row in rows)
    assert failed([broken, *rows])
    assert not failed([*rows, {"error": "out of memory"}])


class Event:
    """`torch.cuda.Event` on the clock of the host."""

    def __init__(self, *, enable_timing: bool) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.time - self.time)


def test_prediction_without_tf32_is_so_for_its_own_images_alone(scripts: None) -> None:
    import predict

    seen = []

    def fill_in(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return image

    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        predict.without_tf32(fill_in)(torch.zeros(1), torch.zeros(1))
        assert (seen, torch.backends.cudnn.allow_tf32) == ([False], True)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_prediction_one_variant_after_the_other(scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import predict

    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda *_: 2**21)
    make = predict.make

    def made(name: str, *rest: Any) -> Any:
        if name == "folded":
            raise torch.OutOfMemoryError
        return make(name, *rest)

    monkeypatch.setattr(predict, "make", made)
    args = argparse.Namespace(
        config="big-lama", model=None, device="cpu", sizes=[32, 64], variants=["reference", "cufft", "folded", "bf16"],
        rounds=1, threads=1, overrides=SMALL[:2], onnx=None, n_iters=1,
    )  # fmt: skip
    rows = list(predict.compare_on_gpu(args, predict.network(args)))
    assert [row["variant"] for row in rows] == ["reference"] * 2 + ["cufft"] * 2 + ["folded"] + ["bf16"] * 2
    assert [row.get("error") for row in rows] == [None] * 4 + ["out of memory", None, None]
    measured = [row for row in rows if "error" not in row]
    assert all(row["host_seconds"] > 0 and (row["peak_mb"], row["reserved_mb"]) == (1, 2) for row in measured)
    assert [row["max_error"] for row in measured[:4]] == [0, 0, 0, 0]  # CPUs read a spectrum in one way only
    assert measured[-1]["max_error"] > 0
