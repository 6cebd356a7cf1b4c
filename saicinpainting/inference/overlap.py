"""Copy to a GPU and back while it computes."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from saicinpainting.io.images import to_bytes, to_levels
from saicinpainting.utils import InputError


@cache
def _stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """Copies in one direction wait for none in the other."""
    return torch.cuda.Stream(device)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`. To a GPU it is copied while that computes what it was given before."""
    if device.type != "cuda" or x.device.type == "cuda":
        return x.to(device)
    stream, current = _stream(device, "upload"), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        # A part of a large image would be pinned with all that lies between its rows.
        copy = x.contiguous().pin_memory().to(device, non_blocking=True)
    current.wait_stream(stream)
    copy.record_stream(current)
    return copy


class Download:
    """Filled images as pixels, which are made where the images are and come back while the next are computed.

    images: (B, C, H, W) in [0, 1]. deep: as 16 bits a channel, not 8.
    """

    def __init__(self, images: Tensor, *, deep: bool = False) -> None:
        self._deep = deep
        levels = to_levels(images) if deep else to_bytes(images)
        pixels, finite = levels.permute(0, 2, 3, 1).contiguous(), images.isfinite().all()
        self._arrived: torch.cuda.Event | None = None
        if images.device.type != "cuda":
            self._pixels, self._finite = pixels.cpu(), finite.cpu()
            return
        stream = _stream(images.device, "download")
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            self._pixels, self._finite = (_pinned_like(x).copy_(x, non_blocking=True) for x in (pixels, finite))
            self._arrived = stream.record_event()
        for x in (pixels, finite):
            x.record_stream(stream)

    @property
    def is_under_way(self) -> bool:
        """Whether there is something else to do before `pixels` is asked for."""
        return self._arrived is not None

    def pixels(self) -> np.ndarray:
        """uint8, or uint16 if deep, (B, H, W, C), when they are there.

        Raises:
            InputError: there are numbers that are not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        if not self._finite:
            raise InputError(
                "the network painted numbers that are not finite: with precision=fp16 set bf16 or fp32, else the "
                "checkpoint is of no use"
            )
        pixels = self._pixels.numpy()
        return pixels.astype(np.uint16) if self._deep else pixels


def _pinned_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
