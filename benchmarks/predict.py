#!/usr/bin/env python3
"""Filling one image: the official arithmetic against the folded network, its exports, half precision.

    benchmarks/predict.py [--config big-lama] [--sizes 256 512 1024] [--memory 2048] [--variants …] [--json FILE]

`reference`: the network as trained, float32, eager, contiguous, FFT. `folded`: batch norms and branches multiplied
out, channels-last, strips at full resolution. `bf16`: the same in bfloat16, `bf16-compiled` with `torch.compile`
besides; both by default only where there are units for it. `onnxruntime`, `openvino`: the exported file (`--onnx FILE`
keeps it), where they are installed. `refined`: with feature refinement, measured if named; its memory does not depend
on `--n-iters`.

Weights are seeded, since published ones cannot be assumed at hand; `--model RUN` takes a trained run. `max_error`,
`psnr_db`: in the hole against the first variant, on a photograph. `--memory`: sizes at which each variant runs once in
a process of its own, for `peak_mb`, libraries included; not compiled ones, where it would be the compiler's.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, alternate, arguments, machine, report  # isort: skip  (makes the package importable)

sys.path.insert(0, str(ROOT))

import numpy as np
import skimage
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.config import register_resolvers
from saicinpainting.evaluation.refinement import refine_predict
from saicinpainting.inference.export import ExportableInpainter, export
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.training.modules import make_generator
from saicinpainting.training.modules.folding import fold
from saicinpainting.training.modules.fourier import set_fft_backend
from tests.helpers import fill, peak_memory

HALF = ("bf16", "bf16-compiled")
RUNTIMES = ("onnxruntime", "openvino")
VARIANTS = ("reference", "folded", *HALF, *RUNTIMES)
REFINED = "refined"
Fill = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", default="big-lama", help="training config of the network (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a trained run instead of seeded weights")
    parser.add_argument("--onnx", type=Path, help="the network's export, made there if it is missing")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="sides of the images")
    parser.add_argument("--memory", type=int, nargs="*", default=[2048], help="sides at which memory is measured")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, REFINED], help="default: all that are fast here")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each variant (default: %(default)s)")
    parser.add_argument("--n-iters", type=int, default=15, help="steps of `refined` (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    units = args.device != "cpu" or "no bfloat16" not in machine(args.threads)
    args.variants = args.variants or [name for name in VARIANTS if units or name not in HALF]
    if args.once:
        print(json.dumps(run_once(args)))
        return
    rows = [row for size in args.sizes for row in compare(args, size)]
    for size in args.memory:
        rows += memory(args, size)
    if not rows:
        parser.error("nothing to measure: give --sizes, or --memory with variants that are not compiled")
    report(rows, threads=args.threads, json_file=args.json)


def network(args: argparse.Namespace) -> torch.nn.Module:
    if args.model:
        return Inpainter.from_run(args.model, device="cpu", fold=False).network
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        config = compose(args.config, ["location=places_example"])
    return calibrated(fill(make_generator(**OmegaConf.to_container(config.generator, resolve=True))))


@torch.no_grad()
def calibrated(generator: torch.nn.Module) -> torch.nn.Module:
    """With the batch norms' statistics of a photograph, so that maps are of a trained network's size."""
    for part in generator.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    image, mask = photograph(256)
    generator.train()(torch.cat([image * (1 - mask), mask], dim=1))
    return generator.eval()


def variants(args: argparse.Namespace, folder: Path) -> dict[str, Fill]:
    generator, made = network(args), {}
    for name in args.variants:
        if name == "reference":
            reference = generator.to(args.device).to(memory_format=torch.contiguous_format)
            set_fft_backend(reference, "fft")
            made[name] = plain(reference)
        elif name in ("folded", *HALF):
            made[name] = Inpainter(
                generator,
                device=args.device,
                precision="fp32" if name == "folded" else "bf16",
                compile_network=name == "bf16-compiled",
                strategy="whole",
            )
            set_fft_backend(made[name].network, "auto")
        elif name == REFINED:
            made[name] = refined(fold(generator).to(args.device), args.n_iters)
        elif importlib.util.find_spec(name):
            path = args.onnx or folder / "model.onnx"
            if not path.exists():
                export(ExportableInpainter(fold(copy.deepcopy(generator).cpu())), path, sizes=((1, 128, 256),))
            made[name] = runtime(name, path)
    return made


def plain(generator: torch.nn.Module) -> Fill:
    @torch.inference_mode()
    def run(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        device = next(generator.parameters()).device
        x = torch.cat([image * (1 - mask), mask], dim=1).to(device)
        return torch.where(mask > 0, generator(x).float().cpu(), image)

    return run


def refined(generator: torch.nn.Module, n_iters: int) -> Fill:
    inpainter = torch.nn.Module()
    inpainter.generator = generator

    def run(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch = {"image": image, "mask": mask, "unpad_to_size": image.shape[2:]}
        return refine_predict(batch, inpainter, n_iters=n_iters)

    return run


def runtime(name: str, path: Path) -> Fill:
    threads = torch.get_num_threads()
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda image, mask: torch.from_numpy(
            session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0]
        )
    import openvino

    compiled = openvino.Core().compile_model(
        str(path), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda image, mask: torch.from_numpy(compiled([image.numpy(), mask.numpy()])[0])


def photograph(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and a mask with strokes and a box, about a quarter of it."""
    with Image.open(Path(skimage.__file__).parent / "data" / "coffee.png") as file:
        pixels = np.asarray(file.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, size // 4 : size // 2, size // 3 : 3 * size // 4] = 1
    mask[:, :, 3 * size // 4 : 3 * size // 4 + size // 16] = 1
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255, mask


def compare(args: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    image, mask = photograph(size)
    with tempfile.TemporaryDirectory() as folder:
        made = variants(args, Path(folder))
        results = {name: run(image, mask) for name, run in made.items()}  # also warms up

        def timed(run: Fill) -> Callable[[], float]:
            def measure() -> float:
                start = time.perf_counter()
                run(image, mask)
                return time.perf_counter() - start

            return measure

        seconds = alternate({name: timed(run) for name, run in made.items()}, args.rounds)
    rows = []
    for name, took in seconds.items():
        hole = mask.expand_as(image) > 0
        error = (results[name] - results[next(iter(results))])[hole].double()
        psnr = -10 * math.log10(max(error.square().mean().item(), 1e-15))
        rows.append(
            {
                "case": f"{args.model or args.config} {size}x{size}",
                "variant": name,
                "seconds": took,
                "ratio": next(iter(seconds.values())) / took,
                "peak_mb": None,
                "max_error": error.abs().max().item(),
                "psnr_db": psnr,
            }
        )
    return rows


def memory(args: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in args.variants:
        if name == "bf16-compiled" or (name in RUNTIMES and not importlib.util.find_spec(name)):
            continue
        command = [sys.executable, __file__, "--once", str(size), "--variants", name, "--config", args.config]
        command += ["--threads", str(args.threads), "--device", args.device]
        command += ["--model", str(args.model)] if args.model else []
        command += ["--n-iters", str(args.n_iters)]
        command += ["--onnx", str(args.onnx)] if args.onnx else []
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr)
        took = json.loads(run.stdout.splitlines()[-1])
        first = rows[0]["seconds"] if rows else took["seconds"]
        row = {"case": f"{args.model or args.config} {size}x{size}, once", "variant": name, **took}
        rows.append({**row, "ratio": first / took["seconds"]})
    return rows


def run_once(args: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        (run,) = variants(args, Path(folder)).values()
        image, mask = photograph(args.once)
        start = time.perf_counter()
        run(image, mask)
        seconds = time.perf_counter() - start
    on_gpu = args.device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
    return {"seconds": seconds, "peak_mb": peak / 2**20}


if __name__ == "__main__":
    main()
