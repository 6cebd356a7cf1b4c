"""Mask generators and the making of evaluation sets.

The generators live here, and not under training/, because evaluation sets draw from them too and imports go
from evaluation to training only. Training code finds them at `saicinpainting.training.data.masks`.
"""
