"""simple-lama-inpainting, and simple-lama-inpainting-updated, with our TorchScript in place of big-lama.pt."""

from __future__ import annotations

import os

from common import CASES, case, sizes, write
from PIL import Image

os.environ["LAMA_MODEL"] = str(CASES / "free.pt")
from simple_lama_inpainting import SimpleLama

lama = SimpleLama()
for size in sizes():
    write(size, lama(*map(Image.fromarray, case(size))))
