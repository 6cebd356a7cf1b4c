"""The official path of the networks with fast Fourier convolutions."""

from __future__ import annotations

from saicinpainting.networks.ffc import FFC, FFC_BN_ACT, ConcatTupleLayer, FFCResnetBlock, FFCResNetGenerator
from saicinpainting.networks.fourier import FourierUnit, SELayer, SpectralTransform

__all__ = [
    "FFC",
    "FFC_BN_ACT",
    "ConcatTupleLayer",
    "FFCResNetGenerator",
    "FFCResnetBlock",
    "FourierUnit",
    "SELayer",
    "SpectralTransform",
]
