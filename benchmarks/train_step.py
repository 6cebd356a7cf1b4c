#!/usr/bin/env python3
"""A training step of lama-fourier: the official way of computing it against ours, in turns, in one run.

    benchmarks/train_step.py [--batch 2] [--size 256] [--device cpu] [--variants reference default fast] [--json FILE]

Each variant is a process of its own that trains with Lightning, as `bin/train.py` would, on one seeded batch, and takes
steps when it is told to; memory is each one's own. On a CPU their steps alternate. On a GPU, which may not hold two of
them, one is measured after the other, in bursts of steps that the host does not wait for in between.

reference  float32, eager, contiguous, complex FFT, two forward passes of the generator, one tensor at a time in Adam
default    what `bin/train.py` does unless told otherwise
fast       `trainer=fast`
compiled, fast_compiled  the same two with `training_model.compile=true` (minutes of compilation)

A preset that computes the gradient penalty in every k-th step alone is measured with and without it, and its seconds
are the mean over k steps. `ratio`: the first variant's time / this one's. `floor`: the step's convolutions alone, each
replayed as the step calls it; `floor_share`: floor / seconds. `tflop`: convolutions and matrix products of that step.
`peak_mb`: of the GPU's memory, or of the process (its imports included) on a CPU. `error`: why there are no figures.
"""

import os
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common import (  # isort: skip  (makes the package importable)
    arguments,
    error_row,
    failed,
    report,
    seconds_of,
    synchronize,
    write_encoder,
)

import pytorch_lightning as pl
import torch
from torch.multiprocessing import get_context
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import flop_registry

from saicinpainting.commands.plan import compose_config
from saicinpainting.training.epoch_loop import use_exact_epochs
from saicinpainting.training.factory import make_training_model
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
BURST = 8  # steps on a GPU, or as many as there are from one gradient penalty to the next


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", default="lama-fourier")
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--size", type=int, default=256, help="side of the crops (default: 256)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--variants", nargs="+", default=["reference", "default", "fast"], choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=5, help="steps or bursts measured of each (default: 5)")
    parser.add_argument("--overrides", nargs="+", default=[], help="changes of the config, generator.ngf=8 for example")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        write_encoder(Path(folder), torch.rand(4, 3, 128, 128))
        rows = (row for batch in args.batch for row in measure(args, batch, folder))
        sys.exit(failed(report(rows, threads=args.threads, json_file=args.json)))


def measure(args, batch: int, folder: str) -> Iterator[dict]:
    runners = {variant: Runner(args, variant, batch, folder) for variant in args.variants}
    first = None
    for variant, end in (one_by_one if args.device == "cuda" else in_turns)(runners, args.rounds):
        row = {"case": f"{args.config} {args.size} px batch {batch} {args.device}", "variant": variant}
        if "error" not in end:
            first = first or end["seconds"]
            row |= {"seconds": end["seconds"], "ratio": first / end["seconds"], "peak_mb": end["peak_mb"]}
            row["images_per_second"] = batch / end["seconds"]
        if "floor" in end:
            row["floor_share"] = end["floor"] / end["seconds"]
        yield row | end


class Runner:
    """A variant's process; once that is broken it answers why."""

    def __init__(self, args, variant: str, batch: int, folder: str) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(theirs, args, variant, batch, folder), daemon=True)
        self.process.start()
        theirs.close()  # so that a process that dies ends the waiting for it
        self.broken: dict | None = None

    def ask(self, order: str) -> dict:
        if self.broken is None:
            with suppress(OSError):  # it may have ended already and left its reason
                self.pipe.send(order)
            try:
                reply = self.pipe.recv()
            except (EOFError, OSError):
                reply = {"error": "the process ended"}
            if "error" not in reply:
                return reply
            self.broken = reply
        return self.broken

    def end(self) -> dict:
        reply = self.ask("stop")
        self.process.join()  # its memory is free for the next
        return reply


def one_by_one(runners: dict[str, Runner], rounds: int) -> Iterator[tuple[str, dict]]:
    """Each variant's mean step and end; a first burst chooses algorithms, fills caches, compiles."""
    for variant, runner in runners.items():
        bursts = [runner.ask("burst") for _ in range(1 + rounds)][1:]
        end = runner.end()
        yield variant, end if "error" in end else {"seconds": statistics.median(b["seconds"] for b in bursts), **end}


def in_turns(runners: dict[str, Runner], rounds: int) -> Iterator[tuple[str, dict]]:
    """The same, by steps that alternate, so that a slow moment of the machine hits all of the variants."""
    for runner in runners.values():
        for _ in range(2):  # the first steps choose algorithms, fill caches, compile
            runner.ask("step")
    steps: dict[str, list[dict]] = {variant: [] for variant in runners}
    for _ in range(rounds):
        for variant, runner in runners.items():
            steps[variant].append(runner.ask("step"))
    for variant, runner in runners.items():
        while not any(step.get("penalized", True) for step in steps[variant]):
            steps[variant].append(runner.ask("step"))
    for variant, runner in runners.items():
        end = runner.end()
        yield variant, end if "error" in end else {"seconds": mean_step(steps[variant]), **end}


def mean_step(steps: list[dict]) -> float:
    """Seconds of a step with the gradient penalty and of one without, by how often they come."""
    with_penalty, without = ([s["seconds"] for s in steps if s["penalized"] is kind] for kind in (True, False))
    often = 1 / steps[0]["interval"]
    return often * statistics.median(with_penalty) + (1 - often) * (statistics.median(without) if without else 0)


# ---- in a variant's process -----------------------------------------------------------------------------------------


def run(pipe, args, variant: str, batch: int, folder: str) -> None:
    try:
        train(pipe, args, variant, batch, folder)
    except Exception as error:
        traceback.print_exc()
        pipe.send(error_row(error))


def train(pipe, args, variant: str, batch: int, folder: str) -> None:
    torch.set_num_threads(args.threads)
    overrides = [
        *VARIANTS[variant],
        f"losses.resnet_pl.weights_path={folder}",
        "evaluator=ssim_inpainted",
        "visualizer.kind=noop",
        "location=sample",
        *args.overrides,
    ]
    config = compose_config(args.config, overrides)
    pl.seed_everything(0)
    model = make_training_model(config)
    pipe.poll(None)  # a GPU is left to the variant whose turn it is
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
    use_exact_epochs(trainer)  # Lightning's own loop waits for the device in every step
    trainer.fit(model, DataLoader(Batches(batch, args.size, pinned=args.device == "cuda"), batch_size=None))


class Batches(Dataset):
    """The same batch again and again."""

    def __init__(self, batch: int, size: int, *, pinned: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(batch, 3, size, size, generator=generator)
        self.mask = (torch.rand(batch, 1, size, size, generator=generator) > 0.6).float()
        if pinned:  # once: what the loader of a real run does in a thread of its own
            self.image, self.mask = self.image.pin_memory(), self.mask.pin_memory()

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, i: int) -> dict:
        return {"image": self.image, "mask": self.mask}


class Stepper(pl.Callback):
    """Takes and times a step or a burst when told to; then counts the operations of one more step."""

    def __init__(self, pipe, device: str) -> None:
        self.pipe, self.device = pipe, device
        self.steps = self.left = 0  # of the order in hand
        self.start = 0.0

    def on_train_batch_start(self, trainer, module, batch, i) -> None:
        if self.left:
            return
        order = self.pipe.recv()
        if order == "stop":
            figures: dict = {"peak_mb": self.peak_mb()}
            with suppress(torch.OutOfMemoryError):  # a replayed convolution may need more than it does in the step
                figures |= self.counted(trainer, module, batch)
            self.pipe.send(figures)
            os._exit(0)  # there is nothing to finish
        interval = module.adversarial_loss.gp_interval
        self.steps = self.left = 1 if order == "step" else interval * -(-BURST // interval)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # cuDNN's trials of the first steps are no part of a run
        synchronize(self.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, i) -> None:
        self.left -= 1
        if self.left:
            return
        synchronize(self.device)
        seconds = (time.perf_counter() - self.start) / self.steps
        loss = module.adversarial_loss
        self.pipe.send({"seconds": seconds, "penalized": loss.penalizes(i), "interval": loss.gp_interval})

    def peak_mb(self) -> float:
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_memory()
        return round(peak / 2**20)

    def counted(self, trainer, module, batch) -> dict[str, float]:
        """Of one step: seconds of its convolutions, each alone with inputs of its own, and TFLOP."""
        torch.compiler.set_stance("force_eager")
        with CountOperations() as counted, trainer.precision_plugin.train_step_context():
            module.training_step(batch, 0)
        floor = sum(count * self.replay(call) for call, count in counted.convolutions.items())
        return {"floor": floor, "tflop": counted.flop / 1e12}

    def replay(self, call) -> float:
        operator, arguments = call
        made = [argument.make() if isinstance(argument, Described) else argument for argument in arguments]
        made = [list(argument) if isinstance(argument, tuple) else argument for argument in made]
        operator(*made)
        times = 8 if self.device == "cuda" else 1  # in a row, or the launch of a small one would count
        return statistics.median(seconds_of(lambda: operator(*made), self.device, times=times) for _ in range(3))


class Described(tuple):
    """What is needed to make a tensor like another: device, dtype, shape and strides."""

    def make(self) -> torch.Tensor:
        device, dtype, shape, strides = self
        once = [1 if stride == 0 else size for size, stride in zip(shape, strides, strict=True)]
        return torch.empty_strided(once, strides, dtype=dtype, device=device).normal_().expand(shape)


class CountOperations(TorchDispatchMode):
    """Which convolutions run, and how often; and the floating-point operations of all that have a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: Counter = Counter()
        self.flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in CONVOLUTIONS:
            self.convolutions[function, tuple(map(describe, args))] += 1
        if (formula := flop_registry.get(function.overloadpacket)) is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=result)
        return result


def describe(argument):
    if torch.is_tensor(argument):
        return Described((argument.device, argument.dtype, tuple(argument.shape), argument.stride()))
    return tuple(argument) if isinstance(argument, (list, tuple)) else argument


if __name__ == "__main__":
    main()
