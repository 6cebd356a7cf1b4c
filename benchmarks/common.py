"""What the benchmarks share: the machine's description, photographs, seeded weights, timing, the table and its JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from PIL import Image

from saicinpainting.io.files import write_whole
from saicinpainting.networks.resnet_encoder import ResNetEncoder, encoder_weights

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


def report(rows: Iterable[Mapping[str, Any]], *, threads: int, json_file: Path | None, **more: Any) -> list[Row]:
    """Print the rows as a table; write `{"machine": …, "rows": […]}` after each, so that what was measured is kept."""
    made: list[Row] = []
    for row in rows:
        made.append(dict(row))
        if json_file is not None:
            write_json(made, threads=threads, json_file=json_file, **more)
    columns = list(dict.fromkeys(key for row in made for key in row))
    text = [[as_text(row.get(column)) for column in columns] for row in made]
    widths = [max(len(line[i]) for line in [columns, *text]) for i in range(len(columns))]
    print(machine(threads))
    for line in [columns, *text]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return made


def write_json(rows: list[Row], *, threads: int, json_file: Path, **more: Any) -> None:
    """Write `{"machine": …, "rows": […]}`, a line for each row."""
    head = json.dumps({"machine": machine(threads), **more}, indent=1).removesuffix("\n}")
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    write_whole(json_file, f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


def as_text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def alternate(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, measured in turns so that a slow moment of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            seconds[name].append(measure())
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: str | torch.device) -> None:
    """Wait for what was queued on `device`; a CPU has no queue."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: str | torch.device, *, times: int = 1) -> float:
    """Mean seconds of `times` calls in a row: between events on a GPU, which is not waited for in between."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / times


def error_row(error: BaseException) -> Row:
    """What a table says of a variant that did not run."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"error": OUT_OF_MEMORY}
    lines = str(error).strip().splitlines() or [""]
    return {"error": f"{type(error).__name__}: {lines[0]}"}


def failed(rows: Iterable[Row]) -> bool:
    """Whether something went wrong. A card that is too small for a variant is a result."""
    return any(row.get("error") not in (None, OUT_OF_MEMORY) for row in rows)


OUT_OF_MEMORY = "out of memory"


def synthetic_photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Something like a photograph, uint8 (height, width, 3): 1 / f noise with a few flat shapes in front of it."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for level in range(2, 8):
        noise = rng.standard_normal((2**level, 2**level, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            image[..., channel] += np.asarray(layer) / 2**level
    image = 0.5 + image / (6 * image.std())
    y, x = np.mgrid[:height, :width]
    for _ in range(6):
        radius = rng.uniform(0.05, 0.2) * min(height, width)
        inside = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) < radius
        image[inside] = 0.3 * image[inside] + 0.7 * rng.uniform(0, 1, 3)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


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


def write_metric_networks(folder: Path) -> dict[str, Path]:
    """Seeded networks of LPIPS and FID in the formats of the published files, by the metric's name."""
    from torchvision.models import vgg16

    from saicinpainting.metrics.inception import _make_inception

    torch.manual_seed(0)
    networks = {"lpips": vgg16(init_weights=False), "fid": _make_inception()}
    files = {}
    for name, network in networks.items():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
        # VGG's classifier, most of its file, is no part of LPIPS.
        state = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith("classifier")}
        files[name] = folder / f"{name}.pth"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, files[name])
    return files
