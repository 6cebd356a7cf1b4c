"""The official path of depthwise separable convolutions."""

from __future__ import annotations

from saicinpainting.networks.pix2pixhd import DepthwiseSeparableConv as DepthWiseSeperableConv

__all__ = ["DepthWiseSeperableConv"]
