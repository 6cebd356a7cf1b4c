"""The official path of the training module's base."""

from __future__ import annotations

from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule as BaseInpaintingTrainingModule

__all__ = ["BaseInpaintingTrainingModule"]
