#!/usr/bin/env bash
# What works and how fast on this machine's CUDA card, in at most eight minutes: `make gpu`, see docs/gpus.md.
# PYTHON: one that has the packages; OUT: folder of the results; STEPS: some of 1 to 6, as 3,4; DEVICE=cpu: shrunk.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu.py --device "${DEVICE:-cuda}" --steps "${STEPS:-1,2,3,4,5,6}" --out "${OUT:-}"
