"""The official path of training augmentation."""

from __future__ import annotations

from saicinpainting.data.aug import get_transforms

__all__ = ["get_transforms"]
