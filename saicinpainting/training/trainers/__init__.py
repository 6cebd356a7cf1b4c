"""Building the training module from a config, and reading it back from a checkpoint."""

from __future__ import annotations

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint
from saicinpainting.training.module import DefaultInpaintingTrainingModule

__all__ = ["DefaultInpaintingTrainingModule", "load_checkpoint", "make_training_model"]
