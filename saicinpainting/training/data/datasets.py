"""The official path of data sets and their loaders."""

from __future__ import annotations

from saicinpainting.data.datasets import (
    InpaintingTrainDataset,
    make_default_train_dataloader,
    make_default_val_dataloader,
    make_default_val_dataset,
)

__all__ = [
    "InpaintingTrainDataset",
    "make_default_train_dataloader",
    "make_default_val_dataloader",
    "make_default_val_dataset",
]
