"""OpenVINO on the CPU, in single precision. Third word: `free` or `fixed`."""

from __future__ import annotations

import sys

import openvino
from common import CASES, Run, with_tensors

core = openvino.Core()


def load(size: str) -> Run:
    name = "free.onnx" if sys.argv[3] == "free" else f"{size}_default.onnx"
    compiled = core.compile_model(str(CASES / name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image, mask: compiled({"image": image, "mask": mask})[0]


with_tensors(load)
