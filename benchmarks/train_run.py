#!/usr/bin/env python3
"""A short real run through `bin/train.py`: train, validate, resume, profile; or the same start under DDP.

    benchmarks/train_run.py [--device cpu] [--strategy ddp] [--small] [--json FILE] [--trace FILE]

lama-fourier as published trains on photographs made here, with seeded weights for the perceptual loss, LPIPS and FID in
files of the published formats; nothing is downloaded. After an epoch and a validation a second process resumes the run
for one more epoch and profiles four of its steps. `--small`: networks, images and epochs of a CPU's size, without
pretrained networks. `--strategy ddp`: one small epoch in one process that is a DDP group of its own, no resume.

`seconds`: of the whole process. `step_seconds`, `peak_mb`: what the run logged last. Of the profile: kernels (on a CPU,
operators) a step, the share of the time in which one ran, how often the host waited for the GPU, and the costliest.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import (  # isort: skip  (makes the package importable)
    ROOT,
    Row,
    arguments,
    report,
    synthetic_photograph,
    write_encoder,
    write_metric_networks,
)

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.io.checkpoint import read_checkpoint

COSTLIEST = 12
LOGGED = ("gen_l1", "gen_resnet_pl", "gen_fm", "gen_adv", "discr_adv", "gen_grad_norm", "discr_grad_norm")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--strategy", default="auto", choices=("auto", "ddp"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--trace", type=Path, help="keep the profile, a .json.gz for https://ui.perfetto.dev")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = under_ddp(args, Path(folder)) if args.strategy == "ddp" else whole_run(args, Path(folder))
        report(rows, threads=args.threads, json_file=args.json)


def whole_run(args: argparse.Namespace, root: Path) -> Iterator[Row]:
    steps, batch = (6, 2) if args.small else (12, 10)
    first, end = steps - 5, steps - 1  # of the resumed process's steps, those that are profiled
    write_data(root / "data", images=steps * batch, side=96 if args.small else 320)
    overrides = [
        f"data.batch_size={batch}",
        "data.total_batch_size=null",
        f"trainer.kwargs.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
    ]
    overrides += SMALL if args.small else with_networks(root)
    seconds, _ = train(root, *overrides, "trainer.kwargs.max_epochs=1")
    yield {"case": f"train, {steps} steps", "seconds": seconds, **logged(root), "steps": finished_steps(root, steps)}
    yield {"case": "validation", **scores(root)}
    resume = ["trainer.resume_from_checkpoint=auto", "trainer.kwargs.max_epochs=2", "trainer.profile=torch"]
    seconds, _ = train(root, *overrides, *resume, f"trainer.profile_steps=[{first},{end}]")
    row = {"case": "resume", "seconds": seconds, **logged(root), "steps": finished_steps(root, 2 * steps)}
    yield {name: value for name, value in row.items() if name != "step_seconds"}  # writing the profile counts in it
    trace = json.loads(gzip.decompress((root / "run" / "profile" / "trace.json.gz").read_bytes()))
    if args.trace:
        kept = {key: value for key, value in trace.items() if key not in ("host_name", "traceName")}
        args.trace.write_bytes(gzip.compress(json.dumps(kept).encode()))
    yield from profile_rows(trace["traceEvents"], steps=end - first)


def under_ddp(args: argparse.Namespace, root: Path) -> Iterator[Row]:
    write_data(root / "data", images=4, side=96)
    backend = "nccl" if args.device == "cuda" else "gloo"
    overrides = [*SMALL, "data.batch_size=2", "data.total_batch_size=null", "trainer.kwargs.max_epochs=1"]
    overrides += [
        "trainer.kwargs.strategy=ddp",
        f"trainer.kwargs.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
    ]
    seconds, output = train(root, *overrides)
    found = re.search(r"distributed_backend=(\w+)", output)
    if found is None or found[1] != backend:
        raise SystemExit(f"expected a process group of {backend}, got {found and found[1]}")
    case = f"DDP over {backend}, one process"
    yield {"case": case, "seconds": seconds, **logged(root), "steps": finished_steps(root, 2), **scores(root)}


# ---- the run --------------------------------------------------------------------------------------------------------

SMALL = [
    "generator.ngf=8",
    "generator.n_blocks=2",
    "discriminator.ndf=8",
    "losses.resnet_pl.weight=0",
    "evaluator=ssim_inpainted",
    "trainer.checkpoint_kwargs.monitor=val_ssim_total_mean",
    "data.train.out_size=64",
    "data.train.mask_gen_kwargs.irregular_kwargs={max_angle:4,max_len:50,max_width:25,max_times:5,min_times:1}",
    "data.train.mask_gen_kwargs.box_kwargs={margin:2,bbox_min_size:8,bbox_max_size:38,max_times:4,min_times:1}",
    "data.num_workers=0",
]


def write_data(root: Path, *, images: int, side: int) -> None:
    """The layout of a training location: crops of a few photographs, validation images with masks."""
    photographs = [synthetic_photograph(2 * side, 2 * side, seed=seed) for seed in range(4)]
    rng = np.random.default_rng(0)

    def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)

    for i in range(images):
        top, left = rng.integers(0, side, 2)
        crop = photographs[i % len(photographs)][top : top + side, left : left + side]
        save(root / "train" / f"{i:03}.jpg", crop, quality=92)
    for folder, number in (("val", 4), ("visual_test", 1)):
        for i in range(number):
            mask = np.zeros((side, side), np.uint8)
            mask[side // 4 : side // 2 + i * side // 12, side // 3 : 3 * side // 4] = 255
            save(root / folder / f"{i}.png", photographs[i][:side, :side])
            save(root / folder / f"{i}_mask000.png", mask)


def with_networks(root: Path) -> list[str]:
    """Seeded weights of all pretrained networks, and the overrides that name them."""
    files = sorted((root / "data" / "train").glob("*.jpg"))[:4]
    photographs = np.stack([np.asarray(Image.open(file))[:128, :128] for file in files])
    write_encoder(root / "weights", torch.from_numpy(photographs).permute(0, 3, 1, 2) / 255)
    networks = write_metric_networks(root / "weights")
    return [
        f"losses.resnet_pl.weights_path={root / 'weights'}",
        *(f"evaluator.{name}_weights={path}" for name, path in networks.items()),
    ]


def train(root: Path, *overrides: str) -> tuple[float, str]:
    """Seconds of the process and what it printed, which is printed as it comes too."""
    command = [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", "location=sample"]
    command += [f"location.data_root_dir={root / 'data'}", f"location.tb_dir={root / 'tb'}"]
    command += [f"hydra.run.dir={root / 'run'}", "trainer.kwargs.devices=1", "trainer.kwargs.num_sanity_val_steps=0"]
    command += ["trainer.kwargs.log_every_n_steps=2", "+trainer.kwargs.enable_progress_bar=false", *overrides]
    environment = {**os.environ, "LAMA_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        raise SystemExit(f"bin/train.py ended with status {process.returncode}")
    return time.perf_counter() - start, "".join(lines)


def scalars(root: Path) -> dict[str, list[float]]:
    """Everything the run's processes logged, in order."""
    found: dict[str, list[float]] = {}
    for file in sorted((root / "tb").rglob("events*"), key=lambda path: path.stat().st_mtime):
        board = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for name in board.Tags()["scalars"]:
            found.setdefault(name, []).extend(event.value for event in board.Scalars(name))
    return found


def logged(root: Path) -> Row:
    values = scalars(root)
    losses = {name: values[f"train_{name}"] for name in LOGGED if f"train_{name}" in values}
    for name, numbers in losses.items():
        if not all(map(math.isfinite, numbers)):
            raise SystemExit(f"train_{name} is not finite: {numbers}")
    memory = values.get("memory_gpu_peak_mb") or values.get("memory_process_mb") or [math.nan]
    row = {"step_seconds": values["speed_step_seconds"][-1], "peak_mb": memory[-1]}
    return row | {name: numbers[-1] for name, numbers in losses.items()}


def scores(root: Path) -> Row:
    values = scalars(root)
    found = {name: values[f"val_{name}_total_mean"][-1] for name in SCORES if f"val_{name}_total_mean" in values}
    for name, value in found.items():
        if not math.isfinite(value):
            raise SystemExit(f"{name} of the validation is not finite")
    if not found:
        raise SystemExit("the validation left no scores")
    return found


SCORES = ("ssim", "lpips", "fid")


def finished_steps(root: Path, expected: int) -> int:
    steps = read_checkpoint(root / "run" / "models" / "last.ckpt")["global_step"]
    if steps != expected:
        raise SystemExit(f"expected {expected} steps in last.ckpt, got {steps}")
    return steps


# ---- the profile ----------------------------------------------------------------------------------------------------


def profile_rows(events: list[dict], *, steps: int) -> Iterator[Row]:
    events = [event for event in events if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    work = kernels or [event for event in events if event.get("cat") == "cpu_op"]
    start = min(event["ts"] for event in events)
    span = max(event["ts"] + event["dur"] for event in events) - start
    calls: Counter = Counter(event["name"] for event in events)
    spent: Counter = Counter()
    for event in work:
        spent[event["name"]] += event["dur"]
    row = {"case": f"profile, {steps} steps", "seconds": span / 1e6 / steps, "calls": len(work) / steps}
    row["busy_share"] = covered(work) / span
    yield row | {"host_waits": sum(calls[name] for name in WAITS) / steps}
    for name, microseconds in spent.most_common(COSTLIEST):
        row = {"case": "kernel" if kernels else "operator", "variant": name[:90], "calls": calls[name] / steps}
        yield row | {"seconds": microseconds / 1e6 / steps}


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def covered(events: list[dict]) -> float:
    """Microseconds in which at least one of them runs."""
    total, until = 0.0, -math.inf
    for event in sorted(events, key=lambda event: event["ts"]):
        end = event["ts"] + event["dur"]
        total += max(0.0, end - max(event["ts"], until))
        until = max(until, end)
    return total


if __name__ == "__main__":
    main()
