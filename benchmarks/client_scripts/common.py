"""What the scripts of clients share; they run in environments of their own, with NumPy and their client.

script.py CASES RESULTS: CASES has HxW.npz (`pixels` RGB and `mask`, uint8) and exports; RESULTS gets HxW.npy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

CASES, RESULTS = (Path(word) for word in sys.argv[1:3])
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sizes() -> list[str]:
    return sorted(path.stem for path in CASES.glob("*x*.npz"))


def case(size: str) -> tuple[np.ndarray, np.ndarray]:
    """`pixels` (H, W, 3) and `mask` (H, W)."""
    arrays = np.load(CASES / f"{size}.npz")
    return arrays["pixels"], arrays["mask"]


def padded(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As docs/export.md says it: the mirror image to the right and the bottom, up to multiples of 8."""
    rows, columns = (-side % 8 for side in mask.shape)
    edges = ((0, rows), (0, columns))
    return np.pad(pixels, (*edges, (0, 0)), mode="symmetric"), np.pad(mask, edges, mode="symmetric")


def inputs(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 `image` (1, 3, H, W) in [0, 1] and `mask` (1, 1, H, W), padded."""
    pixels, mask = padded(pixels, mask)
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    return image, (mask > 0).astype(np.float32)[None, None]


def write(size: str, result: np.ndarray) -> None:
    """`result`: RGB uint8 (H, W, 3), maybe padded still."""
    height, width = map(int, size.split("x"))
    np.save(RESULTS / f"{size}.npy", np.asarray(result)[:height, :width])


def with_tensors(load: Callable[[str], Run]) -> None:
    """Fill all cases by `load(size)`, which gives float32 (1, 3, H, W) in [0, 1]."""
    for size in sizes():
        filled = load(size)(*inputs(*case(size)))[0].transpose(1, 2, 0)
        write(size, np.rint(np.clip(filled, 0, 1) * 255).astype(np.uint8))
