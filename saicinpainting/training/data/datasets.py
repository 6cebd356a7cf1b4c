"""The official path of data sets and their loaders."""

from saicinpainting.data.datasets import (
    InpaintingTrainDataset,
    make_default_train_dataloader,
    make_default_val_dataloader,
    make_default_val_dataset,
)
