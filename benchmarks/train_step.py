#!/usr/bin/env python3
"""A training step of lama-fourier: the official way of computing it against ours, in turns, in one run.

    benchmarks/train_step.py [--batch 2] [--size 256] [--device cpu] [--variants reference default fast] [--json FILE]

Each variant is a process of its own that trains with Lightning, as `bin/train.py` would, on one seeded batch, and takes
a step when it is told to; so their steps alternate and memory is each one's own.

reference  float32, eager, contiguous, complex FFT, two forward passes of the generator, one tensor at a time in Adam
default    what `bin/train.py` does unless told otherwise
fast       `trainer=fast`
compiled, fast_compiled  the same two with `training_model.compile=true` (minutes of compilation)

A preset that computes the gradient penalty in every k-th step alone is measured with and without it, and its seconds
are the mean over k steps. `ratio`: the first variant's time / this one's. `floor`: the step's convolutions alone, each
replayed as the step calls it; `floor_share`: floor / seconds. `peak_mb`: of the GPU's memory, or of the process (its
imports included) on a CPU.
"""

import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import ROOT, arguments, report, write_encoder  # isort: skip  (makes the package importable)

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch.multiprocessing import get_context
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from saicinpainting.config import register_resolvers
from saicinpainting.training.trainers import make_training_model
from tests.helpers import peak_memory

EAGER = ["+training_model.compile=false"]
COMPILE = ["+training_model.compile=true"]
VARIANTS = {
    "reference": [
        "+training_model.fft_backend=fft",
        "+training_model.channels_last=false",
        "+training_model.nonfinite=ignore",
        *EAGER,
        "+optimizers.generator.foreach=false",
        "+optimizers.discriminator.foreach=false",
    ],
    "default": EAGER,
    "fast": ["trainer=fast", *EAGER],
    "compiled": COMPILE,
    "fast_compiled": ["trainer=fast", *COMPILE],
}
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", default="lama-fourier")
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--size", type=int, default=256, help="side of the crops (default: 256)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--variants", nargs="+", default=["reference", "default", "fast"], choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=5, help="steps measured of each variant (default: 5)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        write_encoder(Path(folder), torch.rand(4, 3, 128, 128))
        for batch in args.batch:
            rows += measure(args, batch, folder)
    report(rows, threads=args.threads, json_file=args.json)


def measure(args, batch: int, folder: str) -> list[dict]:
    context = get_context("spawn")
    pipes, processes = {}, []
    for variant in args.variants:
        pipes[variant], theirs = context.Pipe()
        process = context.Process(target=train, args=(theirs, args, variant, batch, folder), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies ends the waiting for it
        processes.append(process)
        for _ in range(2):  # the first steps choose algorithms, fill caches, compile
            ask(pipes[variant])
    steps = {variant: [] for variant in args.variants}
    for _ in range(args.rounds):
        for variant, pipe in pipes.items():
            steps[variant].append(ask(pipe))
    for variant, pipe in pipes.items():
        while not any(step["penalized"] for step in steps[variant]):
            steps[variant].append(ask(pipe))
    ends = {variant: ask(pipe, "stop") for variant, pipe in pipes.items()}
    for process in processes:
        process.join()
    rows = []
    for variant in args.variants:
        took, first = mean_step(steps[variant]), mean_step(steps[args.variants[0]])
        row = {"case": f"{args.config} {args.size} px batch {batch} {args.device}", "variant": variant}
        row |= {"seconds": took, "ratio": first / took, "peak_mb": ends[variant]["peak_mb"]}
        floor = ends[variant]["floor"]
        row |= {"images_per_second": batch / took, "floor": floor, "floor_share": floor / took}
        rows.append(row)
    return rows


def mean_step(steps: list[dict]) -> float:
    """Seconds of a step with the gradient penalty and of one without, by how often they come."""
    with_penalty, without = ([s["seconds"] for s in steps if s["penalized"] is kind] for kind in (True, False))
    often = 1 / steps[0]["interval"]
    return often * statistics.median(with_penalty) + (1 - often) * (statistics.median(without) if without else 0)


def ask(pipe, order: str = "step") -> dict:
    pipe.send(order)
    return pipe.recv()


# ---- in a variant's process -----------------------------------------------------------------------------------------


def train(pipe, args, variant: str, batch: int, folder: str) -> None:
    torch.set_num_threads(args.threads)
    register_resolvers()
    overrides = [
        *VARIANTS[variant],
        f"losses.resnet_pl.weights_path={folder}",
        "evaluator=ssim_inpainted",
        "visualizer.kind=noop",
        "location=sample",
    ]
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        config = compose(args.config, overrides)
    pl.seed_everything(0)
    model = make_training_model(config)
    stepper = Stepper(pipe, args.device)
    kwargs = config.trainer.kwargs
    trainer = pl.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        precision=kwargs.precision,
        benchmark=kwargs.get("benchmark", False),
        max_epochs=1,
        log_every_n_steps=kwargs.log_every_n_steps,
        callbacks=[stepper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(Batches(batch, args.size), batch_size=None))


class Batches(Dataset):
    """The same batch again and again."""

    def __init__(self, batch: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(batch, 3, size, size, generator=generator)
        self.mask = (torch.rand(batch, 1, size, size, generator=generator) > 0.6).float()

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, i: int) -> dict:
        return {"image": self.image, "mask": self.mask}


class Stepper(pl.Callback):
    """Waits for the order of each step and times it; then counts the convolutions of one more and replays them."""

    def __init__(self, pipe, device: str) -> None:
        self.pipe, self.device = pipe, device
        self.start = 0.0

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def on_train_batch_start(self, trainer, module, batch, i) -> None:
        if self.pipe.recv() == "stop":
            self.pipe.send({"peak_mb": self.peak_mb(), "floor": self.floor(trainer, module, batch)})
            os._exit(0)  # there is nothing to finish
        self.synchronize()
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, i) -> None:
        self.synchronize()
        seconds = time.perf_counter() - self.start
        loss = module.adversarial_loss
        self.pipe.send({"seconds": seconds, "penalized": loss.penalizes(i), "interval": loss.gp_interval})

    def peak_mb(self) -> float:
        if self.device == "cuda":
            return round(torch.cuda.max_memory_allocated() / 2**20)
        return round(peak_memory() / 2**20)

    def floor(self, trainer, module, batch) -> float:
        """Seconds of one step's convolutions, forward and backward, each alone with inputs of its own."""
        torch.compiler.set_stance("force_eager")
        with CountConvolutions() as counted, trainer.precision_plugin.train_step_context():
            module.training_step(batch, 0)
        return sum(count * self.replay(call) for call, count in counted.calls.items())

    def replay(self, call) -> float:
        operator, arguments = call
        made = [argument.make() if isinstance(argument, Described) else argument for argument in arguments]
        made = [list(argument) if isinstance(argument, tuple) else argument for argument in made]
        times = []
        for _ in range(4):
            self.synchronize()
            start = time.perf_counter()
            operator(*made)
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])


class Described(tuple):
    """What is needed to make a tensor like another: device, dtype, shape and strides."""

    def make(self) -> torch.Tensor:
        device, dtype, shape, strides = self
        once = [1 if stride == 0 else size for size, stride in zip(shape, strides, strict=True)]
        return torch.empty_strided(once, strides, dtype=dtype, device=device).normal_().expand(shape)


class CountConvolutions(TorchDispatchMode):
    """Which convolutions run, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in CONVOLUTIONS:
            self.calls[function, tuple(map(describe, args))] += 1
        return function(*args, **(kwargs or {}))


def describe(argument):
    if torch.is_tensor(argument):
        return Described((argument.device, argument.dtype, tuple(argument.shape), argument.stride()))
    return tuple(argument) if isinstance(argument, (list, tuple)) else argument


if __name__ == "__main__":
    main()
