"""Runs shrunk to seconds, their logs and checkpoints."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from saicinpainting.config import register_resolvers
from saicinpainting.io.checkpoint import (
    read_checkpoint,
)
from saicinpainting.metrics import FIDScore
from tests.helpers import ROOT, assert_same, fill, shrunk


def compose_run(root: Path, *extra: str, name: str = "lama-fourier") -> Any:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        return compose(name, shrunk(root, *extra))


def write_log(folder: Path, scalars: Mapping[str, Mapping[int, float]]) -> Path:
    """An event file as training writes it, `hp_metric` at step 0 included; `scalars`: tag -> step -> value."""
    time.sleep(0.01)  # a file is begun after the one before it
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("hp_metric", -1, 0)
        writer.add_scalar("epoch", 0, 1)
        for tag, values in scalars.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step)
    return max(folder.glob("events*"), key=lambda file: file.stat().st_mtime_ns)


def scalars(root: Path, name: str) -> dict[tuple[str, int], float]:
    """Everything that TensorBoard was told, from all event files of the run."""
    values = {}
    for folder in sorted((root / "tb" / name).iterdir()):
        board = EventAccumulator(str(folder))
        board.Reload()
        values |= {(tag, scalar.step): scalar.value for tag in board.Tags()["scalars"] for scalar in board.Scalars(tag)}
    return {key: value for key, value in values.items() if key[0].startswith(("train_", "val_", "_val_", "test_"))}


def judged(checkpoint: dict[str, Any]) -> list[tuple[str, float]]:
    (state,) = (value for name, value in checkpoint["callbacks"].items() if "ModelCheckpoint" in name)
    return sorted((Path(path).name, float(score)) for path, score in state["best_k_models"].items())


def assert_same_run(root: Path, name: str, expected: str) -> None:
    ours, other = (read_checkpoint(root / n / "models" / "last.ckpt") for n in (name, expected))
    for part in ("state_dict", "optimizer_states", "epoch", "global_step", "position", "validations"):
        assert_same(ours[part], other[part], part)
    for name_of_loop, counters in other["loops"]["fit_loop"].items():
        if "val_loop" not in name_of_loop:  # counts the batches of validations for the progress bar
            assert_same(ours["loops"]["fit_loop"][name_of_loop], counters, name_of_loop)
    assert judged(ours) == judged(other)
    assert scalars(root, name) == scalars(root, expected)
    files = [{path.name for path in (root / n / "models").iterdir()} for n in (name, expected)]
    assert files[0] == files[1]


class TinyFID(FIDScore):
    """FID on eight random features instead of Inception's."""

    def __init__(self) -> None:
        layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        super().__init__(network=fill(torch.nn.Sequential(*layers)), features=8)
        self._warned = True
        self.distances = 0  # computed here

    def summarize(self, rows: Any) -> dict[str, float]:
        self.distances += 1
        return super().summarize(rows)


def lightning_1_checkpoint(state: dict[str, torch.Tensor]) -> dict:
    """The layout Lightning 1.2.9 wrote: callback classes as keys, an OmegaConf object as hyper parameters."""
    parameter = torch.nn.Parameter(torch.ones(2))
    return {
        "epoch": 39,
        "global_step": 999999,
        "pytorch-lightning_version": "1.2.9",
        "state_dict": OrderedDict(state),
        "callbacks": {pl.callbacks.ModelCheckpoint: {"best_model_score": torch.tensor(0.9), "dirpath": "/x"}},
        "optimizer_states": [torch.optim.Adam([parameter]).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "config",
        "hyper_parameters": OmegaConf.create({"generator": {"kind": "ffc_resnet", "out": "${env:TORCH_HOME}"}}),
        "hparams_type": type(OmegaConf.create({})),
    }


TRAINING = ROOT / "configs" / "training"


@cache
def compose_raw(name: str, *overrides: str, folder: Path = TRAINING) -> DictConfig:
    """What `-cn name overrides…` gives, Hydra's own settings included, with interpolations as they are written."""
    register_resolvers()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=True)


@cache
def composed(name: str, *overrides: str, folder: Path = TRAINING) -> dict[str, Any]:
    """The same with every interpolation resolved, without Hydra's settings."""
    config = compose_raw(name, *overrides, folder=folder)
    return {str(key): resolved(config[key]) for key in config if key != "hydra"}


def resolved(section: Any) -> Any:
    if not OmegaConf.is_config(section):
        return section
    return OmegaConf.to_container(section, resolve=True, throw_on_missing=True)
