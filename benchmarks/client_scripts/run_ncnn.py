"""ncnn, converted by pnnx. Third word: `onnx` or `pt` (TorchScript)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import ncnn
import numpy as np
from common import CASES, RESULTS, Run, with_tensors

kind = sys.argv[3]
TRIES = 3


def load(size: str) -> Run:
    folder = RESULTS / size
    folder.mkdir(exist_ok=True)
    shutil.copy(CASES / (f"{size}_default.onnx" if kind == "onnx" else f"{size}.pt"), folder / f"lama.{kind}")
    rows, columns = (-(-int(side) // 8) * 8 for side in size.split("x"))
    shapes = f"inputshape=[1,3,{rows},{columns}],[1,1,{rows},{columns}]"
    pnnx = str(Path(sys.executable).with_name("pnnx"))
    # fp16=0: by itself pnnx rounds the weights to half precision. It crashes at random, before or after its files.
    convert = [pnnx, f"lama.{kind}", shapes, "fp16=0"]
    for _ in range(TRIES):
        ended = subprocess.run(convert, cwd=folder, check=False, stdout=subprocess.DEVNULL)
        if (folder / "lama.ncnn.bin").exists():
            break
    else:
        sys.exit(f"pnnx ended with status {ended.returncode} at {size}, without its files, {TRIES} times")
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(folder / "lama.ncnn.param"))
    net.load_model(str(folder / "lama.ncnn.bin"))

    def run(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0]).clone())
        extractor.input("in1", ncnn.Mat(mask[0]).clone())
        return np.array(extractor.extract("out0")[1]).reshape(image.shape)

    return run


with_tensors(load)
