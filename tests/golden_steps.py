"""The ten golden training steps: config, batches, and what is recorded of them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from tests.helpers import golden_values, rand

STEPS = 10


class GoldenBatches(Dataset):
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        mask = (rand(200 + i, 4, 1, 64, 64) > 0.6).to(self.dtype)
        return {"image": rand(100 + i, 4, 3, 64, 64).to(self.dtype), "mask": mask}


class Recorder(pl.Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        trainer.log_every_n_steps = 1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def golden_config() -> dict[str, Any]:
    return {
        "training_model": {"kind": "default", "visualize_each_iters": 1000},
        "generator": {**golden_values()["ffc"], "n_blocks": 1},
        "discriminator": golden_values()["discriminator"],
        "losses": {
            "l1": {"weight_known": 10, "weight_missing": 0},
            "adversarial": {
                "kind": "r1",
                "weight": 10,
                "gp_coef": 0.001,
                "mask_as_fake_target": True,
                "allow_scale_mask": True,
            },
            "feature_matching": {"weight": 100},
        },
        "optimizers": {"generator": {"kind": "adam", "lr": 1e-3}, "discriminator": {"kind": "adam", "lr": 1e-4}},
        "visualizer": {"kind": "noop"},
        "evaluator": None,
        "trainer": {"kwargs": {"gradient_clip_val": 1}},
    }


PATHS = {
    "default": {},
    "channels last": {"channels_last": True},
    "official": {"fft_backend": "fft", "channels_last": False},
}
