"""What the benchmarks share: the machine's description, photographs, seeded weights, the table and its JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from saicinpainting.evaluation.resnet_encoder import ResNetEncoder, encoder_weights

Row = dict[str, Any]


def machine(threads: int) -> str:
    """Processor, what it multiplies bfloat16 with, GPU if any, and torch's version."""
    flags = _cpu_info("flags").split()
    units = "AMX" if "amx_bf16" in flags else "AVX-512 BF16" if "avx512_bf16" in flags else "no bfloat16 units"
    parts = [f"{_cpu_info('model name') or platform.processor()}, {threads} of {os.cpu_count()} cores, {units}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join([*parts, f"torch {torch.__version__}"])


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads (default: 2)")
    return parser


def report(rows: Iterable[Mapping[str, Any]], *, threads: int, json_file: Path | None, **more: Any) -> None:
    """Print the rows as a table and write `{"machine": …, "rows": […]}`."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *text]) for i in range(len(columns))]
    print(machine(threads))
    for line in [columns, *text]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(threads), **more, "rows": rows}
        json_file.write_text(json.dumps(content, indent=1) + "\n")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def alternate(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, measured in turns so that a slow moment of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            seconds[name].append(measure())
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.no_grad()
def write_encoder(folder: Path, images: torch.Tensor) -> None:
    """A seeded perceptual encoder in the file and format of the published one, which cannot be assumed at hand.

    images: (B, 3, H, W) in [0, 1]; batch norm's statistics are those of its maps on them, so that no map vanishes.
    """
    torch.manual_seed(0)
    encoder = ResNetEncoder("resnet50dilated").train()
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1
    encoder(images)
    file = folder / encoder_weights("resnet50dilated", True)[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(encoder.state_dict(), file)
