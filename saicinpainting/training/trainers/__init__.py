"""Building the training module from a config, and reading it back from a checkpoint."""

from __future__ import annotations

from saicinpainting.training.trainers.build import make_training_model
from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule
from saicinpainting.training.trainers.load import load_checkpoint

__all__ = ["DefaultInpaintingTrainingModule", "load_checkpoint", "make_training_model"]
