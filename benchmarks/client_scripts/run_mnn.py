"""MNN: its own converter, then its Python module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import MNN.expr as expr
import MNN.nn as nn
import numpy as np
from common import CASES, RESULTS, Run, with_tensors


def load(size: str) -> Run:
    out = RESULTS / f"{size}.mnn"
    converter = [str(Path(sys.executable).with_name("mnnconvert")), "-f", "ONNX", "--bizCode", "lama"]
    subprocess.run(
        [*converter, "--modelFile", str(CASES / f"{size}_default.onnx"), "--MNNModel", str(out)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    net = nn.load_module_from_file(str(out), ["image", "mask"], ["inpainted"])

    def run(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = [expr.const(x, list(x.shape), expr.NCHW, expr.float) for x in (image, mask)]
        return np.array(expr.convert(net.forward(given)[0], expr.NCHW).read()).reshape(image.shape)

    return run


with_tensors(load)
