#!/usr/bin/env python3
"""What a training step costs, counted without a GPU: operators, host reads, bytes, TFLOP, and a card's floor.

    benchmarks/step_cost.py [--card H100] [--cases lama-fourier:10:32 …] [--override KEY=VALUE …] [--json FILE]
    benchmarks/step_cost.py --options [--json FILE]

Lightning's trainer takes real steps of the module that `bin/train.py` builds, on tensors that have a shape, a type and
no numbers. What PyTorch dispatches in a step with warm optimizers is counted:

operators    each is one kernel or a few; views are left out
host_reads   times that the host waits for the device
casts        operators that change a type or make a copy of another layout, as autocast does of each weight
gigabytes    of the inputs and outputs of all operators
peak_gigabytes  of the tensors that live at once; the allocator's slack and cuDNN's workspaces come on top
tflop        of convolutions and matrix products; cuFFT's are left out
floor_ms     on the card: the larger of tflop / peak and gigabytes / bandwidth, both of the data sheet
attainable_ms  the same at the shares of peak and bandwidth that good kernels reach, an estimate (cards.py)

The floor is that of uncompiled code. Compiling fuses operators, so fewer bytes are moved; the arithmetic stays.

official  the official code's structure: FFT, contiguous maps, two forward passes of the generator and the gradient
          penalty in every step, one tensor at a time in clipping and in Adam
default   what `bin/train.py` does on a GPU unless told otherwise, uncompiled
fast      `trainer=fast`, uncompiled: one forward pass of the generator, the gradient penalty in every 16th step

With `--options` it is the default step alone (`plain`), and again with each of OPTIONS on; `…_ratio` is beside `plain`.

The tensors are CPU tensors, so what depends on the device is set as a GPU would have it: transforms as products,
channels_last, operators on lists of tensors. Autocast's list of operators is that of CPUs. Logging is left out.
"""

from __future__ import annotations

import copy
import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from common import arguments, as_text, write_encoder, write_json  # isort: skip  (makes the package importable)

import pytorch_lightning as pl
import torch
from cards import ARITHMETIC_SHARE, BANDWIDTH_SHARE, CARDS, Card
from counting import Cost, OperatorCounter, StepCost, counted, fake_tensors, mean_cost
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from train_step import VARIANTS

from saicinpainting.commands.plan import compose_config
from saicinpainting.losses.perceptual import ResNetPL
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.module import AUTOCAST_DTYPES, InpaintingModule

AS_ON_A_GPU = ["++training_model.fft_backend=products", "++training_model.channels_last=true"]
STEPS = {
    "official": VARIANTS["reference"],
    "default": [*VARIANTS["default"], *AS_ON_A_GPU],
    "fast": [*VARIANTS["fast"], *AS_ON_A_GPU],
}
PLAIN, MICRO_BATCHES = "plain", "micro_batches"
OPTIONS = {
    "focal_frequency": ["+losses.extra.frequencies={kind: focal_frequency, weight: 1}"],
    "relativistic": ["losses.adversarial.kind=relativistic"],
    "checkpoint_blocks": ["+training_model.checkpoint_blocks=true"],
    "frozen_parts": ["+training_model.frozen_parts=[generator.model.0-4]"],
    "frozen_batch_norm": ["+training_model.frozen_batch_norm=true"],
    "discriminator_warmup_steps": ["+training_model.discriminator_warmup_steps=1000"],
    "average_generator": [
        "+training_model.average_generator=true",
        "+training_model.average_generator_start_step=0",
        "+training_model.average_generator_period=1",  # so that the step that is counted has an update
    ],
    MICRO_BATCHES: [],  # the batch in two, which the trainer decides and no setting of the module
    "cosine": ["optimizers=cosine"],
    "resume_lr": ["trainer.resume_lr=true"],
}
"""Settings that `--options` adds to the default step, by the name of the variant."""
CASES = ["lama-fourier:10:32", "lama-fourier:10:bf16-mixed", "big-lama:30:32", "big-lama:30:bf16-mixed"]
RATIOS = ("operators", "gigabytes", "peak_gigabytes")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cases", nargs="+", help="CONFIG:BATCH:PRECISION", metavar="CASE")
    parser.add_argument("--variants", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--options", action="store_true", help="the default step with each of OPTIONS, not --variants")
    parser.add_argument("--size", type=int, default=256, help="side of the crops (default: 256)")
    parser.add_argument("--card", default="H100", choices=CARDS)
    parser.add_argument("--override", nargs="+", default=[], help="settings of bin/train.py for all variants")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    card, rows = CARDS[args.card], []
    variants = {name: STEPS[name] for name in args.variants}
    if args.options:
        variants = {name: [*STEPS["default"], *more] for name, more in {PLAIN: [], **OPTIONS}.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(Path(folder), torch.rand(2, 3, 32, 32))
        for case in args.cases or (CASES[:1] if args.options else CASES):
            config, batch, precision = case.split(":")
            for variant, settings in variants.items():
                overrides = [*settings, f"losses.resnet_pl.weights_path={folder}", *args.override]
                costs = step_costs(
                    config,
                    overrides,
                    batch=int(batch),
                    size=args.size,
                    precision=precision,
                    foreach=variant != "official",
                    micro_batches=2 if variant == MICRO_BATCHES else 1,
                )
                for step, cost in costs.items():
                    row = {"case": f"{config} {args.size} px batch {batch} {precision}", "variant": variant}
                    rows.append({**row, "step": step, **described(cost, card, half=precision != "32")})
    if args.options:
        rows = with_ratios(rows)
    print_tables(rows, args.card, card)
    if args.json is not None:
        write_json(rows, threads=args.threads, json_file=args.json, card={"name": args.card, **vars(card)})


# ---- counting -------------------------------------------------------------------------------------------------------


def step_costs(
    config: str,
    overrides: Sequence[str],
    *,
    batch: int,
    size: int,
    precision: str,
    foreach: bool = True,
    micro_batches: int = 1,
) -> dict[str, StepCost]:
    """Costs of a step with the gradient penalty and, where that is not computed in every step, of the mean step.

    Args:
        config: a file of configs/training.
        overrides: settings in Hydra's notation.
        precision: as the trainer takes it.
        foreach: clip and step by operators on lists of tensors where the optimizer's settings leave the choice.
        micro_batches: into how many the batch is split.
    """
    real = build(config, overrides)
    if isinstance(real.loss_resnet_pl, ResNetPL):
        real.loss_resnet_pl.prepare(AUTOCAST_DTYPES.get(precision))  # weights without numbers cannot change their type
        real.loss_resnet_pl.prepare = lambda dtype: None
    with fake_tensors(foreach=foreach) as fake:
        with FakeCopyMode(fake):
            model = copy.deepcopy(real)
        model.micro_batches = micro_batches
        with fake:
            data = {"image": torch.rand(batch, 3, size, size), "mask": torch.rand(batch, 1, size, size)}
        loss = model.adversarial_loss
        interval = loss.gp_interval
        # Step 0 warms the optimizers up, step 1 goes without the penalty if any does, the last one has it.
        loss.gp_interval = min(interval, 2)
        steps = train(model, itertools.repeat(data, loss.gp_interval + 1), precision)
    costs = {"R1": steps[-1]}
    return costs if interval == 1 else {**costs, f"mean of {interval}": mean_cost(steps[1], steps[-1], interval)}


def build(config: str, overrides: Sequence[str]) -> InpaintingModule:
    quiet = ["evaluator=ssim_inpainted", "visualizer.kind=noop", "location=sample"]
    return make_training_model(compose_config(config, [*quiet, *overrides]))


def train(model: InpaintingModule, batches: Iterable[dict[str, Any]], precision: str) -> list[StepCost]:
    """What the step of each batch costs."""
    counter, costs = OperatorCounter(), []
    training_step = model.training_step

    @wraps(training_step)
    def counted_step(*args: Any) -> None:
        counter.cost = StepCost()
        with counted(counter):
            training_step(*args)
        costs.append(counter.cost)

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with named_phases(model, counter):
        model.training_step = counted_step
        model.guard.read_all = lambda: None  # flags without numbers
        model.to = model.cpu = lambda *_: model  # weights without numbers cannot be moved; they are where they belong
        trainer.fit(model, batches)
    return costs


@contextmanager
def named_phases(model: InpaintingModule, counter: OperatorCounter) -> Iterator[None]:
    """Name what a step does by the methods and hooks that it passes; leave logging out."""
    network = "generator"  # whose step it is

    def wrap(owner: Any, method: str, phase: Callable[[], str]) -> None:
        original = getattr(owner, method)

        @wraps(original)
        def within(*args: Any, **kwargs: Any) -> Any:
            with counter.phase(phase()):
                return original(*args, **kwargs)

        setattr(owner, method, within)

    def losses_of(name: str) -> str:
        nonlocal network
        network = name
        return {"generator": "losses forward", "discriminator": "D forward, R1"}[name]

    def short() -> str:
        return {"generator": "G", "discriminator": "D"}[network]

    wrap(model.generator, "forward", lambda: "G forward" if torch.is_grad_enabled() else "fresh G forward")
    wrap(model, "generator_loss", lambda: losses_of("generator"))
    wrap(model, "discriminator_loss", lambda: losses_of("discriminator"))
    wrap(model, "manual_backward", lambda: f"{short()} backward")
    wrap(model, "on_before_optimizer_step", lambda: f"{short()} clip")
    if model.generator_average is not None:
        wrap(model.generator_average, "update", lambda: "averaging")
    model.log = model.log_dict = lambda *args, **kwargs: None
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: counter.begin(f"{short()} optimizer")),
        register_optimizer_step_post_hook(lambda *_: counter.end()),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- tables ---------------------------------------------------------------------------------------------------------


def described(step: StepCost, card: Card, *, half: bool) -> dict[str, Any]:
    """A row of the table."""
    total = step.total
    arithmetic, memory = card.arithmetic_ms(total, half=half), card.memory_ms(total)
    return {
        **figures(total),
        "peak_gigabytes": step.peak / 1e9,
        "casts": round(step.by_operator().get("_to_copy", Cost()).operators),
        "arithmetic_ms": arithmetic,
        "memory_ms": memory,
        "floor_ms": max(arithmetic, memory),
        "attainable_ms": max(arithmetic / ARITHMETIC_SHARE, memory / BANDWIDTH_SHARE),
        "phases": {phase: figures(cost) for phase, cost in step.by_phase().items()},
    }


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with RATIOS beside those of the plain step."""
    plain = {(row["case"], row["step"]): row for row in rows if row["variant"] == PLAIN}
    return [
        {**row, **{f"{key}_ratio": row[key] / plain[row["case"], row["step"]][key] for key in RATIOS}} for row in rows
    ]


def figures(cost: Cost) -> dict[str, Any]:
    return {
        "operators": round(cost.operators),
        "host_reads": round(cost.host_reads, 2),
        "gigabytes": cost.moved / 1e9,
        "tflop": cost.flop / 1e12,
    }


def print_tables(rows: list[dict[str, Any]], name: str, card: Card) -> None:
    print(f"{name}: {card}. Attainable: {ARITHMETIC_SHARE:.0%} of arithmetic, {BANDWIDTH_SHARE:.0%} of bandwidth.\n")
    print_markdown([{key: value for key, value in row.items() if key != "phases"} for row in rows])
    for unit in ("operators", "tflop", "gigabytes"):
        print(f"\n{unit} by phase\n")
        head = ("case", "variant", "step")
        print_markdown([{k: row[k] for k in head} | {p: f[unit] for p, f in row["phases"].items()} for row in rows])


def print_markdown(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(as_text(row.get(column)) for column in columns) + " |")


if __name__ == "__main__":
    # Lightning's remarks on a run of three batches
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    main()
