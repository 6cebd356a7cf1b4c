"""Out of memory: detect it, free what can be freed, try less at once."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch

from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")
SIGNS = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # the CPU on Linux
    "not enough memory",  # the CPU on Windows
    "alloc_failed",  # cuBLAS, cuFFT, cuDNN
    "allocation_failed",  # cuDNN from version 9 on
    "failed to allocate memory",  # ONNX Runtime
    "bad_alloc",
    "32-bit index math",  # CUDA kernels that count elements in 32 bits, such as reflection_pad2d
    "canuse32bitindexmath",
)
"""What errors of other types than PyTorch's own say, in lower case."""
FEWEST_PIXELS = 256 * 256
"""A part is not made smaller than this, or than it was: networks were trained on images of this size."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that less at once may do: no memory, or more elements than a kernel can count."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, InputError) or not isinstance(error, Exception):
        return False
    return any(sign in str(error).lower() for sign in SIGNS)


def free_memory() -> None:
    """Give back what no tensor uses: garbage, and the blocks that PyTorch keeps of a GPU for later."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class Attempts:
    """Attempts to compute so much at once, and what to do where the memory is too small for it.

    Batches as large as one that was too large are not tried again. Single images are: what an image comes to must not
    depend on those before it, and memory that others use may be free again.

    Args:
        give_up: frees what its owner can do without, and says whether there was any.
    """

    def __init__(self, give_up: Callable[[], bool] = bool) -> None:
        self._give_up = give_up  # bool() is False, and unlike a lambda can be pickled
        self._too_many = math.inf

    def attempt(self, images: int, pixels: int, compute: Callable[[], T]) -> T | None:
        """compute(); None where the memory is too small for so many `images` of `pixels` each."""
        while images == 1 or images * pixels < self._too_many:
            try:
                return compute()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:120]
            # Not in the handler, where the error's traceback holds all frames it came through, and they their tensors.
            again = self._give_up()
            free_memory()
            if again:
                continue
            self._too_many = min(self._too_many, images * pixels)
            LOGGER.warning("%d x %.2f megapixels at once do not fit (%s)", images, pixels / 1e6, reason)
            break
        return None

    def shrink(self, pixels: int, compute: Callable[[int], T]) -> T:
        """compute(pixels) of one image, or of half as many, a quarter, …

        Raises:
            InputError: not even `FEWEST_PIXELS` fit.
        """
        least = min(FEWEST_PIXELS, pixels)
        while pixels >= least:
            result = self.attempt(1, pixels, lambda: compute(pixels))  # noqa: B023 - it is called at once
            if result is not None:
                return result
            pixels //= 2
        raise InputError(
            f"out of memory: not even {least} pixels at once fit; free memory, or set another device or precision"
        )
