"""Run by test_ddp.py: two ranks train a small module; each dumps its weights after every step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from saicinpainting.training.trainers import make_training_model
from tests.helpers import rand
from tests.training.trainers.test_golden_training import golden_config

IMAGES = 8


class Images(Dataset):
    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": rand(i, 3, 64, 64), "mask": (rand(50 + i, 1, 64, 64) > 0.6).float(), "number": i}


class Dump(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, batch: Any, i: int) -> None:
        # Running statistics of batch norm are each rank's own.
        state = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        dump = {"state": state, "numbers": batch["number"]}
        torch.save(dump, self.folder / f"epoch{trainer.current_epoch}_step{i}_rank{trainer.global_rank}.pt")


def main(folder: Path) -> None:
    pl.seed_everything(0, workers=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_find_unused_parameters_true",
        max_epochs=2,
        callbacks=[Dump(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(make_training_model(golden_config()), DataLoader(Images(), batch_size=2, shuffle=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
