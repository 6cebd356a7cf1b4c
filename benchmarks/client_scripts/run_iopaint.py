"""`iopaint run`, with our TorchScript where it keeps big-lama.pt."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import CASES, RESULTS, case, sizes, write
from PIL import Image

cache = RESULTS / "cache"
kept = cache / "hub" / "checkpoints" / "big-lama.pt"
for folder in ("image", "mask", "filled"):
    (RESULTS / folder).mkdir(exist_ok=True)
kept.parent.mkdir(parents=True, exist_ok=True)
shutil.copy(CASES / "free.pt", kept)
for size in sizes():
    for folder, pixels in zip(("image", "mask"), case(size), strict=True):
        Image.fromarray(pixels).save(RESULTS / folder / f"{size}.png")
digest = hashlib.md5(kept.read_bytes()).hexdigest()
words = ["run", "--model=lama", "--device=cpu", "--image=image", "--mask=mask", "--output=filled"]
subprocess.run(
    [str(Path(sys.executable).with_name("iopaint")), *words, f"--model-dir={cache}"],
    cwd=RESULTS, check=True, env={**os.environ, "LAMA_MODEL_MD5": digest, "TORCH_HOME": str(cache)},
)  # fmt: skip
for size in sizes():
    write(size, np.array(Image.open(RESULTS / "filled" / f"{size}.png").convert("RGB")))
