#!/usr/bin/env python3
"""What `trainer=fast` does to the losses: the same run on photographs by float32 and by the preset.

    benchmarks/fast_losses.py [--steps 300] [--json FILE] [--plot FILE]

A lama-fourier of half the width trains on 64-pixel crops of the demo's photographs, with all of its losses and
distortions (the perceptual encoder has seeded weights), three times from the same weights on the same batches:

float32    what `bin/train.py` does unless told otherwise
fast       `trainer=fast`
contiguous float32 again, computed in the official way (complex FFT, contiguous maps): the same arithmetic with other
           rounding. How far it drifts from `float32` is what a GAN makes of rounding alone.

`drift`: the largest difference from float32 of a loss averaged over a window of 50 steps, relative to float32's.
`last`: the loss averaged over the last 100 steps. `ratio`: float32's time / this one's, data included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, arguments, report, write_encoder  # isort: skip  (makes the package importable)

import cv2
import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

VARIANTS = {
    "float32": [],
    "fast": ["trainer=fast"],
    "contiguous": ["+training_model.fft_backend=fft", "+training_model.channels_last=false"],
}
LOSSES = ("gen_l1", "gen_fm", "gen_resnet_pl", "gen_adv", "discr_adv")
SUPERVISED = ("gen_l1", "gen_fm", "gen_resnet_pl")  # the others are a balance of two networks, not a distance
WINDOW = 50


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plot", type=Path, help="write the curves to this picture")
    parser.add_argument("--curves", type=Path, help="keep the losses in this JSON file, or draw those it holds")
    args = parser.parse_args()
    if args.curves and args.curves.is_file():
        runs = json.loads(args.curves.read_text())
    else:
        runs = run_all(args)
        if args.curves:
            args.curves.write_text(json.dumps(runs))
    curves = {
        variant: {name: np.array(values) for name, values in run["losses"].items()} for variant, run in runs.items()
    }
    rows = [
        {
            "case": f"{name}, {len(curves[variant][name])} steps",
            "variant": variant,
            "seconds": runs[variant]["seconds"],
            "ratio": runs["float32"]["seconds"] / runs[variant]["seconds"],
            "peak_mb": None,
            "last": float(curves[variant][name][-100:].mean()),
            "drift": drift(curves[variant][name], curves["float32"][name]),
        }
        for name in LOSSES
        for variant in curves
    ]
    band = max(row["drift"] for row in rows if row["variant"] == "fast" and row["case"].startswith(SUPERVISED))
    report(rows, threads=args.threads, json_file=args.json, band_of_fast=band)
    print(
        f"fast stays within {band:.1%} of the float32 losses (gen_l1, gen_fm, gen_resnet_pl, means of {WINDOW} steps)"
    )
    if args.plot:
        draw(curves, args.plot)


def windows(values: np.ndarray) -> np.ndarray:
    usable = len(values) // WINDOW * WINDOW
    return values[:usable].reshape(-1, WINDOW).mean(1)


def drift(values: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(windows(values) / windows(reference) - 1).max())


def run_all(args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run([sys.executable, str(ROOT / "bin" / "prepare_sample_photos.py"), str(root / "data")], check=True)
        files = sorted((root / "data" / "train").rglob("*.png"))[:16]
        photos = np.stack([cv2.imread(str(file))[:128, :128, ::-1] for file in files])
        write_encoder(root / "weights", torch.from_numpy(photos).permute(0, 3, 1, 2) / 255)
        return {variant: run(root, variant, args) for variant in VARIANTS}


def run(root: Path, variant: str, args) -> dict:
    command = [
        sys.executable,
        str(ROOT / "bin" / "train.py"),
        "-cn=lama-fourier",
        "location=sample",
        *VARIANTS[variant],
        f"location.data_root_dir={root / 'data'}",
        f"location.tb_dir={root / 'tb'}",
        f"hydra.run.dir={root / variant}",
        f"losses.resnet_pl.weights_path={root / 'weights'}",
        "generator.ngf=32",
        "discriminator.ndf=32",
        "data.batch_size=4",
        "data.total_batch_size=null",
        "data.num_workers=0",
        "data.train.out_size=64",
        "data.train.mask_gen_kwargs.irregular_kwargs={max_angle:4,max_len:50,max_width:25,max_times:5,min_times:1}",
        "data.train.mask_gen_kwargs.box_kwargs.bbox_min_size=8",
        "data.train.mask_gen_kwargs.box_kwargs.bbox_max_size=38",
        "evaluator=ssim_inpainted",
        "visualizer.kind=noop",
        "training_model.store_discr_outputs_for_vis=false",
        "trainer.checkpoint_kwargs.monitor=val_ssim_total_mean",
        "trainer.checkpoint_kwargs.every_n_train_steps=null",
        "trainer.kwargs.accelerator=cpu",
        "trainer.kwargs.max_epochs=1000",
        f"+trainer.kwargs.max_steps={args.steps}",
        "trainer.kwargs.num_sanity_val_steps=0",
        "+trainer.kwargs.limit_val_batches=0",
        "trainer.kwargs.log_every_n_steps=1",
    ]
    print(f"training {args.steps} steps: {variant}", flush=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    seconds = time.perf_counter() - start
    (events,) = (root / "tb" / variant).rglob("events*")
    board = EventAccumulator(str(events), size_guidance={"scalars": 0})
    board.Reload()
    losses = {name: [event.value for event in board.Scalars(f"train_{name}")] for name in LOSSES}
    return {"seconds": seconds, "losses": losses}


def draw(curves: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.5), constrained_layout=True)
    colours = {"float32": "#1f77b4", "fast": "#d62728", "contiguous": "#7f7f7f"}
    for axis, name in zip(axes.flat, LOSSES, strict=False):
        for variant in ("contiguous", "float32", "fast"):
            values = curves[variant][name]
            smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
            axis.plot(values, color=colours[variant], alpha=0.15, linewidth=0.7)
            steps = np.arange(len(smooth)) + WINDOW / 2
            axis.plot(steps, smooth, color=colours[variant], label=variant, linewidth=1.6)
        axis.set_title(f"train_{name}")
        axis.set_xlabel("step")
        low, high = np.percentile(np.concatenate([curves[v][name] for v in curves]), [0.5, 99])
        axis.set_ylim(min(0, low), 1.1 * high)
        axis.grid(alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(handles, labels, loc="center", frameon=False, title=f"means over {WINDOW} steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
