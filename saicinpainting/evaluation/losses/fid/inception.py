"""The official path of FID's Inception network, that of the package pytorch-fid."""

from __future__ import annotations

from pytorch_fid.inception import InceptionV3, fid_inception_v3

__all__ = ["InceptionV3", "fid_inception_v3"]
