#!/usr/bin/env python3
"""Filling one image: the official arithmetic against the folded network, its exports, half precision.

    benchmarks/predict.py [--config big-lama] [--sizes 256 512 1024] [--memory 2048] [--variants …] [--json FILE]

`reference`: the network as trained, float32, eager, contiguous, FFT. `folded`: batch norms and branches multiplied
out, channels-last, strips at full resolution. `bf16`, `fp16`: the same in half precision; `bf16-compiled` with
`torch.compile` besides, `-graphs` as a CUDA graph where one is made; by default only where there are units for it.
`onnxruntime`, `openvino`: the exported file (`--onnx FILE` keeps it), where they are installed, on CPUs. `refined`:
with feature refinement, measured if named; its memory does not depend on `--n-iters`. `cufft`: the reference with the
inverse transform that the official code asks a GPU for, whose result the library leaves open for spectra of no real
map; `max_error` is what its reading changes. `no-tf32`: the reference in full float32; by default GPUs from Ampere on
compute its convolutions in TF32, and `max_error` is what that changes.

Weights are seeded, since published ones cannot be assumed at hand; `--model RUN` takes a trained run. `max_error`,
`psnr_db`: in the hole against the first variant, on a photograph. `--memory`: sizes at which each variant runs once in
a process of its own, for `peak_mb`, libraries included; not compiled ones, where it would be the compiler's.

On a GPU one variant is measured after the other: `seconds` of images that are there already, `host_seconds` with the
copies there and back, `peak_mb` of its memory, `reserved_mb` with what PyTorch keeps. `error`: why there are none.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from common import (  # isort: skip  (makes the package importable)
    alternate,
    arguments,
    error_row,
    failed,
    machine,
    report,
    seconds_of,
    synthetic_photograph,
)

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.commands.plan import compose_config
from saicinpainting.inference.export import ExportableInpainter, export
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.refinement import refine_predict
from saicinpainting.networks import dft, make_generator
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.utils import InputError
from tests.helpers import fill, peak_memory

# What `Inpainter` is told.
INPAINTERS: dict[str, dict[str, Any]] = {
    "folded": {"cuda_graphs": False},
    "bf16": {"precision": "bf16", "cuda_graphs": False},
    "bf16-graphs": {"precision": "bf16"},
    "fp16": {"precision": "fp16", "cuda_graphs": False},
    "fp16-graphs": {"precision": "fp16"},
    "bf16-compiled": {"precision": "bf16", "compile_network": True, "cuda_graphs": False},
}
ON_CPUS = ("folded", "bf16", "bf16-compiled")
CUFFT, NO_TF32 = "cufft", "no-tf32"
RUNTIMES = ("onnxruntime", "openvino")
REFINED = "refined"
VARIANTS = ("reference", CUFFT, NO_TF32, *INPAINTERS, *RUNTIMES, REFINED)
Fill = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", default="big-lama", help="training config of the network (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a trained run instead of seeded weights")
    parser.add_argument("--onnx", type=Path, help="the network's export, made there if it is missing")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="sides of the images")
    parser.add_argument("--memory", type=int, nargs="*", default=[2048], help="sides at which memory is measured")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that are fast here")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each variant (default: %(default)s)")
    parser.add_argument("--n-iters", type=int, default=15, help="steps of `refined` (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overrides", nargs="+", default=[], help="changes of the config, generator.ngf=8 for example")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.variants = args.variants or fast_here(args)
    if args.once:
        print(json.dumps(run_once(args)))
        return
    if not args.sizes and not measured_once(args):
        parser.error("nothing to measure: give --sizes, or --memory with variants that are not compiled")
    sys.exit(failed(report(measure(args), threads=args.threads, json_file=args.json)))


def on_gpu(args: argparse.Namespace) -> bool:
    return args.device.startswith("cuda")


def fast_here(args: argparse.Namespace) -> list[str]:
    if on_gpu(args):
        return ["reference", CUFFT, NO_TF32, *INPAINTERS]
    half = "no bfloat16" not in machine(args.threads)
    return ["reference", *(name for name in ON_CPUS if half or name == "folded"), *RUNTIMES]


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if args.sizes:
        generator = network(args)
        if on_gpu(args):
            yield from compare_on_gpu(args, generator)
        else:
            for size in args.sizes:
                yield from compare(args, generator, size)
    for size in args.memory:
        yield from memory(args, size)


def network(args: argparse.Namespace) -> torch.nn.Module:
    if args.model:
        return Inpainter.from_run(args.model, device="cpu", fold=False).network
    config = compose_config(args.config, ["location=places_example", *args.overrides])
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


def make(name: str, generator: torch.nn.Module, args: argparse.Namespace, folder: Path) -> Fill | None:
    """The variant `name`; None if it is a runtime that is not installed."""
    if name in ("reference", CUFFT, NO_TF32):
        reference = copy.deepcopy(generator).to(args.device).to(memory_format=torch.contiguous_format)
        set_fft_backend(reference, "fft")
        changed = {CUFFT: with_single_inverse, NO_TF32: without_tf32}
        return changed[name](plain(reference)) if name in changed else plain(reference)
    if name in INPAINTERS:
        inpainter = Inpainter(generator, device=args.device, strategy="whole", **INPAINTERS[name])
        set_fft_backend(inpainter.network, "auto")
        return inpainter
    if name == REFINED:
        return refined(fold(generator).to(args.device), args.n_iters)
    if importlib.util.find_spec(name) is None:
        return None
    path = args.onnx or folder / "model.onnx"
    if not path.exists():
        export(ExportableInpainter(fold(generator)), path, sizes=((1, 128, 256),))
    return runtime(name, path)


def plain(generator: torch.nn.Module) -> Fill:
    @torch.inference_mode()
    def run(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        device = next(generator.parameters()).device
        x = torch.cat([image * (1 - mask), mask], dim=1).to(device)
        return torch.where(mask > 0, generator(x).float().to(image.device), image)

    return run


def with_single_inverse(fill_in: Fill) -> Fill:
    def inverse(spectrum: torch.Tensor, *, width: int, norm: str) -> torch.Tensor:
        return torch.fft.irfft2(spectrum, s=(spectrum.shape[-2], width), norm=norm)

    def run(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(dft, "inverse_fft", inverse):
            return fill_in(image, mask)

    return run


def without_tf32(fill_in: Fill) -> Fill:
    def run(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            return fill_in(image, mask)
        finally:
            torch.backends.cudnn.allow_tf32 = before

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
    if spec := importlib.util.find_spec("skimage"):
        with Image.open(Path(str(spec.origin)).parent / "data" / "coffee.png") as file:
            pixels = np.array(file.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    else:  # as good for time and memory
        pixels = synthetic_photograph(size, size)
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, size // 4 : size // 2, size // 3 : 3 * size // 4] = 1
    mask[:, :, 3 * size // 4 : 3 * size // 4 + size // 16] = 1
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, mask


def compare(args: argparse.Namespace, generator: torch.nn.Module, size: int) -> Iterator[dict[str, Any]]:
    image, mask = photograph(size)
    with tempfile.TemporaryDirectory() as folder:
        made = {name: run for name in args.variants if (run := make(name, generator, args, Path(folder)))}
        results = {name: run(image, mask) for name, run in made.items()}  # also warms up
        timed = {name: partial(seconds_of, partial(run, image, mask), "cpu") for name, run in made.items()}
        seconds = alternate(timed, args.rounds)
    first = next(iter(made))
    for name, took in seconds.items():
        row = {"case": f"{args.model or args.config} {size}x{size}", "variant": name, "seconds": took}
        row |= {"ratio": seconds[first] / took, "peak_mb": None}
        yield row | difference(results[name], results[first], mask)


def compare_on_gpu(args: argparse.Namespace, generator: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """One variant after the other, so that the memory at its most is each one's own."""
    firsts: dict[int, tuple[float, torch.Tensor]] = {}  # of each size
    for name in args.variants:
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = make(name, generator, args, Path(folder))
            except Exception as error:
                traceback.print_exc()
                yield {"case": str(args.model or args.config), "variant": name, **error_row(error)}
                continue
            for size in args.sizes if run else ():
                row: dict[str, Any] = {"case": f"{args.model or args.config} {size}x{size}", "variant": name}
                yield row | compare_size_on_gpu(run, size, firsts, args)
        run = None
        torch.cuda.empty_cache()


def compare_size_on_gpu(run: Fill, size: int, firsts: dict[int, tuple[float, torch.Tensor]], args) -> dict[str, Any]:
    on_host = photograph(size)
    image, mask = (tensor.to(args.device) for tensor in on_host)
    try:
        took, result, figures = measure_on_gpu(run, image, mask, on_host, args)
    except Exception as error:
        if isinstance(error, InputError) and "too many" in str(error):  # what `Inpainter` says of it
            error = torch.OutOfMemoryError()
        if not isinstance(error, torch.OutOfMemoryError):
            traceback.print_exc()
        return error_row(error)
    first = firsts.setdefault(size, (took, result))
    return {"seconds": took, "ratio": first[0] / took, **figures, **difference(result, first[1], mask)}


def measure_on_gpu(
    run: Fill, image: torch.Tensor, mask: torch.Tensor, on_host: tuple[torch.Tensor, torch.Tensor], args
) -> tuple[float, torch.Tensor, dict[str, float]]:
    for _ in range(4):  # chooses algorithms, compiles, makes graphs
        result = run(image, mask)
    torch.cuda.reset_peak_memory_stats(args.device)

    def median(*pair: torch.Tensor) -> float:
        return statistics.median(seconds_of(lambda: run(*pair), args.device, times=4) for _ in range(args.rounds))

    took = median(image, mask)
    peak, reserved = torch.cuda.max_memory_allocated(args.device), torch.cuda.max_memory_reserved(args.device)
    figures = {"peak_mb": peak / 2**20, "reserved_mb": reserved / 2**20}
    return took, result, {"host_seconds": median(*on_host), **figures}


def difference(result: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    error = (result - reference)[mask.expand_as(result) > 0].double()
    psnr = -10 * math.log10(max(error.square().mean().item(), 1e-15))
    return {"max_error": error.abs().max().item(), "psnr_db": psnr}


def measured_once(args: argparse.Namespace) -> list[str]:
    """Variants whose memory is measured in a process of its own."""
    names = [name for name in args.variants if not INPAINTERS.get(name, {}).get("compile_network")]
    return [name for name in names if name not in RUNTIMES or importlib.util.find_spec(name)] if args.memory else []


def memory(args: argparse.Namespace, size: int) -> Iterator[dict[str, Any]]:
    first: float | None = None
    for name in measured_once(args):
        command = [sys.executable, __file__, "--once", str(size), "--variants", name, "--config", args.config]
        command += ["--threads", str(args.threads), "--device", args.device]
        command += ["--model", str(args.model)] if args.model else []
        command += ["--n-iters", str(args.n_iters)]
        command += ["--onnx", str(args.onnx)] if args.onnx else []
        command += ["--overrides", *args.overrides] if args.overrides else []
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr)
        took = json.loads(run.stdout.splitlines()[-1])
        first = first or took["seconds"]
        row = {"case": f"{args.model or args.config} {size}x{size}, once", "variant": name, **took}
        yield {**row, "ratio": first / took["seconds"]}


def run_once(args: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        run = make(args.variants[0], network(args), args, Path(folder))
        assert run is not None
        image, mask = photograph(args.once)
        seconds = seconds_of(lambda: run(image, mask), args.device)
    peak = torch.cuda.max_memory_allocated() if on_gpu(args) else peak_memory()
    return {"seconds": seconds, "peak_mb": peak / 2**20}


if __name__ == "__main__":
    main()
