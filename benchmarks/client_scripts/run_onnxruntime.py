"""ONNX Runtime. Third word: `carve` (a fixed size, decimals cut off), `free` (one file for all sizes) or `half`."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
from common import CASES, Run, case, inputs, sizes, with_tensors, write

which = sys.argv[3]


def load(size: str) -> Run:
    name = "free.onnx" if which == "free" else f"{size}_{which}.onnx"
    session = onnxruntime.InferenceSession(str(CASES / name), providers=["CPUExecutionProvider"])
    return lambda image, mask: session.run(None, {"image": image, "mask": mask})[0]


if which == "carve":
    for size in sizes():
        write(size, load(size)(*inputs(*case(size)))[0].transpose(1, 2, 0).astype(np.uint8))
else:
    with_tensors(load)
