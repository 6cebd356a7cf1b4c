"""Run by test_ddp.py: a few steps of training on one or two ranks; each dumps what it holds after every step.

Usage: ddp_worker.py FOLDER RANKS [frozen]. With `frozen` batch norm uses its running statistics, so that a sample's
gradient does not depend on the samples beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.strategy import make_ddp_strategy
from tests.golden_steps import golden_config
from tests.helpers import fill, rand

IMAGES = 8
BATCH = 4  # over all ranks


class Images(Dataset):
    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, i: int) -> dict[str, Any]:
        mask = (rand(50 + i, 1, 64, 64) > 0.6).double()
        return {"image": rand(i, 3, 64, 64).double(), "mask": mask, "number": i}


class Dump(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        self.gradients |= {n: p.grad.clone() for n, p in module.named_parameters() if p in own and p.grad is not None}

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, batch: Any, i: int) -> None:
        # Running statistics of batch norm are each rank's own.
        state = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        dump = {"state": state, "gradients": self.gradients, "numbers": batch["number"]}
        torch.save(dump, self.folder / f"epoch{trainer.current_epoch}_step{i}_rank{trainer.global_rank}.pt")


class FreezeBatchNorm(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()


def main(folder: Path, ranks: int, *, frozen: bool) -> None:
    pl.seed_everything(0, workers=True)
    model = make_training_model(golden_config())
    fill(model.generator)
    fill(model.discriminator)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=make_ddp_strategy("ddp"),
        precision="64-true",
        max_epochs=2,
        callbacks=[Dump(folder), *([FreezeBatchNorm()] if frozen else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(Images(), batch_size=BATCH // ranks, shuffle=not frozen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), frozen="frozen" in sys.argv[3:])
