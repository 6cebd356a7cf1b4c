#!/usr/bin/env python3
"""FID, its bins, P-IDS and U-IDS of synthetic features of Inception's size, each in a process of its own.

    benchmarks/metrics.py [--images 30000] [--no-ids] [--json FILE]

`reference`: pytorch-fid's distance, which takes the root of a matrix, for all images and each of ten bins. `ours`: the
metric with the same bins. `peak_mb`: the process at its largest, libraries included. `difference`: the relative
one of our FID to the reference's.
"""

import argparse
import json
import os
import subprocess
import sys

from common import ROOT, arguments, report  # isort: skip  (makes the package importable)

PREPARE = """
import json, sys, time, torch
import numpy as np
from tests.helpers import peak_memory
images, features, ids = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "ids"
generator = torch.Generator().manual_seed(0)
mixing = torch.randn(features, features, generator=generator) / features**0.5
groups = torch.arange(images) % 10
def parts():
    for start in range(0, images, 500):
        target = torch.randn(500, features, generator=generator) @ mixing
        yield target + 0.3 * torch.randn(500, features, generator=generator), target
"""
OURS = (
    PREPARE
    + """
from saicinpainting.metrics import FIDScore
metric = FIDScore(network=torch.nn.Identity(), features=features, ids=ids)
for number, (pred, target) in enumerate(parts()):
    rows = {"pred_features": pred, "target_features": target}
    metric.append(rows, groups[500 * number : 500 * number + 500])
start = time.perf_counter()
value = metric.compute()["total"]["mean"]
"""
)
REFERENCE = (
    PREPARE
    + """
import warnings; warnings.simplefilter("ignore")
from pytorch_fid.fid_score import calculate_frechet_distance
pred, target = (torch.cat(side).numpy() for side in zip(*parts()))
def distance(x, y):
    return float(calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)))
start = time.perf_counter()
value = distance(pred, target)
for group in range(10):
    distance(pred[groups == group], target[groups == group])
"""
)
TELL = """
seconds, peak = time.perf_counter() - start, peak_memory() / 2**20
print(json.dumps({"value": value, "seconds": seconds, "peak_mb": peak}))
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=30_000, help="pairs of features, a multiple of 500")
    parser.add_argument("--features", type=int, default=2048, help="of an image (default: 2048, Inception's)")
    parser.add_argument("--no-ids", action="store_true", help="leave P-IDS and U-IDS out, which take minutes")
    args = parser.parse_args()
    case = f"fid and 10 bins, {args.images:,}"
    reference, ours = (measure(code, args) for code in (REFERENCE, OURS))
    rows = [row(case, "reference", reference, reference), row(case, "ours", ours, reference)]
    rows[1]["difference"] = abs(ours["value"] / reference["value"] - 1)
    if not args.no_ids:
        with_ids = measure(OURS, args, "ids")
        rows.append(row(f"{case}, P-IDS and U-IDS", "ours", with_ids, with_ids))
    report(rows, threads=args.threads, json_file=args.json)


def measure(code: str, args: argparse.Namespace, *extra: str) -> dict:
    command = [sys.executable, "-c", code + TELL, str(args.images), str(args.features), *(extra or ("",))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(args.threads)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def row(case: str, variant: str, took: dict, reference: dict) -> dict:
    return {
        "case": case,
        "variant": variant,
        "seconds": took["seconds"],
        "ratio": reference["seconds"] / took["seconds"],
        "peak_mb": took["peak_mb"],
    }


if __name__ == "__main__":
    main()
