"""The memory footprint of a network's forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIDES = (2304, 4608)
"""Of the images that are counted: Fourier transforms are computed as for all larger ones."""
MOST_ELEMENTS = 2**31 - 2
"""Of a tensor on a GPU: reflection_pad2d and others refuse 2**31 - 1, as ATen's canUse32BitIndexMath does."""


@dataclass(frozen=True)
class Memory:
    """What a forward pass takes.

    elements_per_pixel: of the largest tensor.
    """

    fixed_gb: float
    gb_per_megapixel: float
    elements_per_pixel: float = 64

    def pixels_in(self, gigabytes: float) -> int:
        """How many pixels it has room for; less than 0 where there is none for what is fixed."""
        return int((gigabytes - self.fixed_gb) / self.gb_per_megapixel * 1e6)

    def most_pixels(self) -> int:
        """How many pixels a GPU can count the elements of."""
        return int(MOST_ELEMENTS / self.elements_per_pixel)


MEASURED = {"strips": Memory(0.3, 0.2), "whole": Memory(0.1, 0.9)}
"""Of big-lama on a CPU in float32, with its layers at full resolution in strips or not, the libraries' own memory
included; benchmarks/predict.py --memory measures it."""


def count_memory(network: nn.Module, channels: int, dtype: torch.dtype) -> Memory:
    """What `network` takes of a GPU for an image (1, channels, H, W); nothing is computed for it.

    It runs on tensors without numbers, which are counted as they come and go. A convolution or a pad may copy what it
    reads into another layout, so that is counted twice. What cuDNN takes besides is not known.
    """
    counts = [_counted(network, channels, side, dtype) for side in SIDES]
    (small, large), pixels = counts, [side**2 for side in SIDES]
    per_pixel = (large.peak - small.peak) / (pixels[1] - pixels[0])
    return Memory(
        fixed_gb=max(large.peak - per_pixel * pixels[1], 0) / 1e9,
        gb_per_megapixel=per_pixel * 1e6 / 1e9,
        elements_per_pixel=max(count.largest / n for count, n in zip(counts, pixels, strict=True)),
    )


class _Counted(TorchDispatchMode):
    """peak: bytes of the tensors that were made and are still there. largest: elements of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.largest = 0
        self._there: dict[int, tuple[StorageWeakRef, int]] = {}

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self._there[reference.cdata] = reference, storage.nbytes()
        self.largest = max(self.largest, tensor.numel())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self.add(made)
        self._there = {key: one for key, one in self._there.items() if not one[0].expired()}
        copied = args[0].nbytes if "pad" in function.__name__ or "convolution" in function.__name__ else 0
        self.peak = max(self.peak, copied + sum(size for _, size in self._there.values()))
        return result


def _counted(network: nn.Module, channels: int, side: int, dtype: torch.dtype) -> _Counted:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    x = torch.empty(1, channels, side, side, device="meta", dtype=dtype, memory_format=torch.channels_last)
    counted = _Counted()
    counted.add(x)
    with torch.no_grad(), counted:
        torch.func.functional_call(network, weights, (x,))
    return counted
