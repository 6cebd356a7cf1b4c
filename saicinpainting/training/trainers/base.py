"""The official path of the training module's base."""

from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule as BaseInpaintingTrainingModule
