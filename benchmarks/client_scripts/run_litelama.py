"""litelama, with weights in safetensors and a config of the published layout."""

from __future__ import annotations

from common import CASES, case, sizes, write
from litelama import LiteLama
from PIL import Image

lama = LiteLama(str(CASES / "lama.safetensors"), str(CASES / "config.yaml"))
lama.to("cpu")
for size in sizes():
    write(size, lama.predict(*map(Image.fromarray, case(size))))
