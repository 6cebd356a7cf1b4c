"""The official path of what builds and loads training modules."""

from __future__ import annotations

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint

__all__ = ["load_checkpoint", "make_training_model"]
