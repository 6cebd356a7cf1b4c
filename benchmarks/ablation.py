#!/usr/bin/env python3
"""The paper's ablation (Suvorov et al. 2022, table 2) in small: Fourier or plain convolutions, wide or narrow masks,
losses left out.

    benchmarks/ablation.py DATA STATE [--seeds 0 1 2] [--variants …] [--json FILE] [--plot FILE.png]

DATA is what bin/prepare_lama_small.py makes. Each variant is trained from each seed by `bin/train.py -cn lama-ablation`
into a folder of STATE, then fills DATA/held_out at the size of training and at twice that, with thin and thick masks
(configs/data_gen). Measured are L1 and SSIM of the hole alone and `lite2`, as in benchmarks/lama_small.py; the table
has the mean and the standard deviation over seeds. All runs take the same steps, whatever the machine is busy with.

The script runs at the lowest priority. SIGTERM and Ctrl-C save and end it; given again it resumes: what is finished
stays, a run that was begun goes on at its step.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # Before OpenMP is loaded: threads that spin while they wait take the processor from what runs beside this.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import ROOT, arguments, machine, write_json  # isort: skip  (makes the package importable)

import cv2
import numpy as np
import pandas as pd
import torch
from lama_small import draw, initial_fill
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from saicinpainting.cli import run_command
from saicinpainting.commands.plan import compose_config
from saicinpainting.evaluation.comparison import FORMATS, Fill, markdown, measure_fill
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io.folders import images_in
from saicinpainting.io.provenance import Provenance
from saicinpainting.io.signals import EXIT_STATUS
from saicinpainting.losses.perceptual import StageFeatureLoss
from saicinpainting.masks.mask_sets import describe_images
from saicinpainting.networks.efficientnet_lite import load_efficientnet_lite
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.networks.load import build_generator
from saicinpainting.utils import InputError

CONFIG = "lama-ablation"
NARROW = "data=abl-02-thin-bb"
# No Fourier units: all channels are local. Residual blocks of 96 instead of 128 channels make up for their cost.
REGULAR = ["generator.resnet_conv_kwargs.ratio_gin=0", "generator.max_features=96"]
VARIANTS: dict[str, list[str]] = {
    "ffc-wide": [],
    "ffc-narrow": [NARROW],
    "regular-wide": REGULAR,
    "regular-narrow": [*REGULAR, NARROW],
    "ffc-wide-no-feature-matching": ["losses.feature_matching.weight=0"],
    "ffc-wide-no-perceptual": ["losses.perceptual.weight=0"],
}
"""Settings of bin/train.py by the variant's name."""
START = "initial fill"
"""What all variants start from."""
CROP, SIZE = 256, 64
"""Sides of crops, of training and of tests, and what they are shown at in training."""
SCALES = (1, 2)
MASKS = {"narrow": "thin", "wide": "thick"}
"""Test masks: names here and in configs/data_gen."""
METRICS = ("L1", "SSIM", "lite2")
STEPS_A_MINUTE = 60
"""A constant, so that steps are too; one core of an Intel Xeon (AVX-512) comes to 135."""

Row = dict[str, Any]


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if hasattr(os, "nice"):
        os.nice(19)
    names = images_in(args.data / "held_out") if (args.data / "held_out").is_dir() else []
    if not names:
        raise InputError(f"{args.data / 'held_out'}: no images there; bin/prepare_lama_small.py makes them")
    steps = args.steps or args.minutes * STEPS_A_MINUTE
    state = Provenance(args.state, ".ablation")
    made_of = {
        "steps": steps,
        "overrides": args.override,
        "photographs": describe_images(args.data / "held_out", names, args.state),
    }
    state.check(made_of, what="runs", remedy="use another folder")
    args.state.mkdir(parents=True, exist_ok=True)
    state.begin(made_of)
    print(machine(args.threads))
    print(f"{steps} steps in each run, {len(names)} held-out photographs\n")
    counts = {variant: multiply_adds((*VARIANTS[variant], *args.override)) for variant in args.variants}
    print(costs(counts))
    if START not in state.done:
        state.add(START, {"rows": measure(initial_fill, args.data / "held_out", names)})
    # A seed after the other: what is there of an unfinished table compares all variants.
    for seed in args.seeds:
        for variant in args.variants:
            run = f"{variant}-seed{seed}"
            if run in state.done:
                continue
            print(f"== {run}", flush=True)
            train(run, variant, seed, steps=steps, args=args)
            network = Inpainter.from_pretrained(args.state / run, "last.ckpt", device="cpu")
            rows = measure(network, args.data / "held_out", names)
            state.add(run, {"minutes": minutes_of(args.state / "logs" / run, steps), "rows": rows})
    rows = collect(state.done, args.variants, args.seeds)
    table = pd.DataFrame(rows)
    print(as_markdown(table))
    print("\n".join(verdicts(table)))
    if args.json is not None:
        more = {"command": " ".join(sys.argv[1:]), "steps": steps, "multiply_adds": counts}
        write_json(rows, threads=args.threads, json_file=args.json, **more)
    if args.plot is not None:
        plot(table, args.plot)


def parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, help="folder with train/ and held_out/")
    parser.add_argument("state", type=Path, help="folder for the runs")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=int, default=20, help=f"of a run at {STEPS_A_MINUTE} steps a minute (default: 20)"
    )
    length.add_argument("--steps", type=int, help="of each run, instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--plot", type=Path, help="write the table as a picture too")
    parser.add_argument("--override", nargs="+", default=[], help="settings of bin/train.py for all variants")
    args = parser.parse_args()
    if (args.steps or args.minutes) < 1:
        parser.error("--minutes and --steps: expected 1 or more")
    args.data, args.state = args.data.resolve(), args.state.resolve()
    return args


# ---- runs -----------------------------------------------------------------------------------------------------------


def train(run: str, variant: str, seed: int, *, steps: int, args: argparse.Namespace) -> None:
    """Train to the last step, from where the run's last checkpoint is.

    Raises:
        SystemExit: a signal came; the run has saved itself.
        InputError: training failed.
    """
    command = [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", CONFIG, f"location.data_root_dir={args.data}"]
    command += [f"location.tb_dir={args.state / 'logs'}", f"hydra.run.dir={args.state / run}"]
    command += [f"trainer.seed={seed}", f"trainer.kwargs.max_steps={steps}"]
    command += [f"training_model.average_generator_start_step={steps // 2}"]
    overrides = [*VARIANTS[variant], *args.override]
    command += [*rate_to_zero(steps, overrides), *overrides]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received or status == EXIT_STATUS:
        print(f"stopped in {run}; the same command resumes it", file=sys.stderr)
        raise SystemExit(EXIT_STATUS)
    if status:
        raise InputError(f"{run}: bin/train.py ended with status {status}; what it says is above")


def rate_to_zero(steps: int, overrides: Sequence[str]) -> list[str]:
    """Settings by which the rates end at 0 with the last step, where `overrides` leave a schedule that can."""
    scheduler = compose_config(CONFIG, overrides).optimizers.generator.get("scheduler") or {}
    if "T_max" not in scheduler:
        return []
    return [f"optimizers.generator.scheduler.T_max={max(1, steps - scheduler.get('warmup_steps', 0))}"]


def minutes_of(logs: Path, steps: int) -> float | None:
    """Minutes of `steps` at the median pace of the log, which pauses do not change; None: it is too short."""
    paces = []
    for file in logs.rglob("events*"):
        board = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        if "train_gen_l1" in board.Tags()["scalars"]:
            events = board.Scalars("train_gen_l1")
            paces += [(b.wall_time - a.wall_time) / (b.step - a.step) for a, b in pairwise(events)]
    return steps * statistics.median(paces) / 60 if paces else None


@cache
def multiply_adds(overrides: tuple[str, ...]) -> float:
    """Of the generator for an image of SIZE px; FFTs count as half of 2.5 N log2 N operations a channel."""
    config = compose_config(CONFIG, overrides)
    settings = OmegaConf.to_container(config.generator, resolve=True)
    generator = build_generator(settings, OmegaConf.to_container(config.training_model, resolve=True)).generator
    set_fft_backend(generator, "fft")

    def fft(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> float:
        height, width = x[-2], max(x[-1], out_shape[-1])
        return 2.5 * np.prod(x[:-2]) * height * width * np.log2(height * width)

    aten = torch.ops.aten
    transforms = {aten._fft_r2c: fft, aten._fft_c2r: fft}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=transforms) as counter:
        generator.eval()(torch.zeros(1, 4, SIZE, SIZE))
    return counter.get_total_flops() / 2


def costs(multiply_adds: Mapping[str, float]) -> str:
    """One line for the variants of each cost."""
    groups: dict[float, list[str]] = {}
    for variant, count in multiply_adds.items():
        groups.setdefault(count, []).append(variant)
    lines = [f"{count / 1e9:.3f} GMAC at {SIZE} px: {', '.join(names)}\n" for count, names in groups.items()]
    return "".join(lines)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(fill: Fill, folder: Path, names: Sequence[str]) -> list[Row]:
    """Means over the photographs for each size and kind of masks."""
    judge = judge_network()
    rows = []
    for kind, recipe in MASKS.items():
        for scale in SCALES:
            found = []
            for name in tqdm(names, desc=f"{kind} masks, {scale * SIZE} px", unit="photograph", leave=False):
                image, mask = case(folder, name, recipe=recipe, scale=scale)
                found.append(measure_fill(fill(image, mask), image, mask, judge))
            means = {metric: statistics.fmean(one[metric] for one in found) for metric in METRICS}
            rows.append({"masks": kind, "size": scale * SIZE, **means})
    return rows


@cache
def judge_network() -> StageFeatureLoss:
    return StageFeatureLoss(load_efficientnet_lite("lite2", where="benchmarks/ablation.py"))


def case(folder: Path, name: str, *, recipe: str, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop with its mask, uint8, SIZE px at scale 1 and twice that at scale 2: means over areas, and every few pixels
    of the mask. (Training's own resize keeps more of the finest detail: it takes the middle of these areas.)
    """
    image, mask = draw(folder, name, size=CROP, kind=recipe, seed=0)
    side = scale * SIZE
    every = CROP // side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.ascontiguousarray(mask[::every, ::every])


# ---- the table ------------------------------------------------------------------------------------------------------


def collect(done: Mapping[str, Any], variants: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """A row for each run, size and kind of test masks; `initial fill` has no seed."""
    rows = [{"variant": START, "seed": None, **row, "minutes": None} for row in done[START]["rows"]]
    for variant in variants:
        for seed in seeds:
            run = done[f"{variant}-seed{seed}"]
            rows += [{"variant": variant, "seed": seed, **row, "minutes": run["minutes"]} for row in run["rows"]]
    return rows


def as_markdown(table: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds; the latter where there are several."""
    lines = []
    for (masks, size, variant), rows in table.groupby(["masks", "size", "variant"], sort=False):
        line: Row = {"masks": masks, "size": str(size), "variant": variant}
        for metric in METRICS:
            line[metric] = format(rows[metric].mean(), FORMATS[metric])
            if len(rows) > 1:
                line[metric] += f" ± {format(rows[metric].std(), FORMATS[metric])}"
        minutes = rows["minutes"].dropna()
        line["minutes"] = f"{minutes.mean():.1f}" if len(minutes) else ""
        lines.append(line)
    return markdown(sorted(lines, key=lambda line: (line["masks"], int(line["size"]))))


def verdicts(table: pd.DataFrame) -> list[str]:
    """A sentence for each metric and test set in which seeds differ as much as variants, or one that there is none.

    Compared are the standard deviation of the variants' means and the mean over variants of that over seeds.
    """
    runs = table[table["variant"] != START]
    if runs["seed"].nunique() < 2 or runs["variant"].nunique() < 2:
        return ["Of one seed or one variant it cannot be said whether seeds differ more than variants."]
    sentences = []
    for (masks, size), rows in runs.groupby(["masks", "size"], sort=False):
        for metric in METRICS:
            by_variant = rows.groupby("variant")[metric]
            variants, seeds = by_variant.mean().std(), by_variant.std().mean()
            if seeds >= variants:
                sentences.append(
                    f"{metric} with {masks} masks at {size} px: seeds differ more (by {seeds:.2g}) than variants (by "
                    f"{variants:.2g}); no order of the variants follows."
                )
    return sentences or [
        "In every metric, with both kinds of masks and at both sizes, variants differ more than seeds."
    ]


def plot(table: pd.DataFrame, file: Path) -> None:
    """A row for each metric, a column for each test set: the seeds as dots, mean and deviation beside them."""
    from matplotlib.figure import Figure

    runs = table[table["variant"] != START]
    variants = list(dict.fromkeys(runs["variant"]))
    sets = sorted(set(zip(table["masks"], table["size"], strict=True)))
    figure = Figure(figsize=(3.2 * len(sets), 2.2 * len(METRICS) + 1), layout="constrained")
    grid = figure.subplots(len(METRICS), len(sets), sharex=True, squeeze=False)
    for column, (masks, size) in enumerate(sets):
        here = table[(table["masks"] == masks) & (table["size"] == size)]
        for row, metric in enumerate(METRICS):
            axes = grid[row, column]
            axes.axhline(here[here["variant"] == START][metric].item(), color="gray", linestyle=":", label=START)
            for place, variant in enumerate(variants):
                values = here[here["variant"] == variant][metric]
                axes.plot([place - 0.15] * len(values), values, ".", color="gray", markersize=4)
                error = values.std() if len(values) > 1 else None
                axes.errorbar(place + 0.1, values.mean(), error, marker="o", markersize=5, capsize=3)
            if column == 0:
                axes.set_ylabel(metric)
            if row == 0:
                axes.set_title(f"{masks} test masks, {size} px", fontsize=10)
            axes.set_xticks(range(len(variants)), variants, rotation=40, ha="right", fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
    grid[0, 0].legend(fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    run_command(main)
