"""The arithmetic of a run, against numbers worked out by hand and against Lightning's own counting."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader

from saicinpainting.training import summary
from saicinpainting.training.run import make_data_module, make_trainer
from saicinpainting.training.summary import RunPlan, describe_run, plan_of
from tests.helpers import write_data
from tests.training.test_run import compose_run


def plan_of_numbers(**changes: Any) -> RunPlan:
    settings = {"images": 100, "batch_size": 20, "batches": 5, "max_epochs": 2, "val_images": {"val": 10}, **changes}
    return RunPlan(**settings)


BIG_LAMA = {
    "images": 4_500_000,
    "batch_size": 15,
    "processes": 8,
    "batches": 37_500,
    "limit_train_batches": 25_000,
    "max_epochs": 40,
    "val_check_interval": 25_000,
    "val_images": {"val": 2000, "test": 100},
}


def test_big_lama_on_eight_gpus():
    summary = describe_run(RunPlan(**BIG_LAMA))
    assert summary.text.splitlines() == [
        "  batch: 15 images a GPU x 8 GPUs = 120 images a step",
        "  epoch: 25,000 steps (limit_train_batches; all of 4,500,000 images would be 37,500); 40 epochs, "
        "1,000,000 steps, every image 26.7 times",
        "  validation: val 2,000 images, test 100 images; every 25,000 steps, 40 times",
        "  checkpoints: after each validation; kept: last.ckpt, best.ckpt, the best 5 of 40",
    ]
    assert summary.warnings == ()


def test_a_small_folder_on_one_gpu():
    """101 images in batches of 4: 25 steps an epoch, and the interval of the shipped configs means its end."""
    summary = describe_run(
        plan_of_numbers(
            images=101, batch_size=4, batches=25, limit_train_batches=25_000, val_check_interval=25_000, max_steps=60
        )
    )
    assert summary.text.splitlines() == [
        "  batch: 4 images a step",
        "  epoch: 25 steps (all of 101 images); 2 epochs, 50 steps, every image 2.0 times",
        "  validation: val 10 images; every 25 steps, 2 times",
        "  checkpoints: after each validation; kept: last.ckpt, best.ckpt, all 2",
    ]
    (warning,) = summary.warnings
    assert warning.startswith("4 images a step: quality degrades below 20")
    assert "raise data.batch_size or use more GPUs (with +trainer.kwargs.sync_batchnorm=true)" in warning


def test_a_run_without_an_end_says_so():
    summary = describe_run(plan_of_numbers(max_epochs=-1, max_steps=None, every_n_train_steps=50, save_top_k=-1))
    assert "no end is set (max_epochs, max_steps)" in summary.text
    assert "every 5 steps\n" in summary.text
    assert (
        "checkpoints: after each validation, last.ckpt also every 50 steps; kept: last.ckpt, best.ckpt, all of them"
        in summary.text
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"check_val_every_n_epoch": 2}, "every 5 steps of one epoch in 2, 1 time"),
        ({"max_steps": 7}, "1.4 epochs, 7 steps, every image 1.4 times"),
        ({"save_top_k": 0}, "kept: last.ckpt"),
        ({"save_top_k": 0, "save_last": False}, "kept: none"),
        ({"every_n_train_steps": 3}, "after each validation, last.ckpt also every 3 steps; kept: last.ckpt, best.ckpt"),
        ({"every_n_epochs": 2}, "checkpoints: after each validation of one epoch in 2; kept: last.ckpt, best.ckpt"),
        (
            {"every_n_train_steps": 3, "save_top_k": 2, "monitored": False, "every_n_epochs": None},
            "checkpoints: every 3 steps; kept: last.ckpt, best.ckpt, the best 2 of 3",
        ),
        ({"images": 1, "batch_size": 1, "batches": 1, "max_epochs": 1}, "1 step (all of 1 image); 1 epoch, 1 step,"),
    ],
)
def test_lines(changes: dict, line: str):
    assert line in describe_run(plan_of_numbers(**changes)).text


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        ({"batch_size": 19}, ["19 images a step: quality degrades below 20"]),
        ({"batch_size": 5, "processes": 4}, []),
        ({"batches": 0}, ["an epoch has no step: 100 images make 0 batches of 20 on 1 process; lower data.batch_size"]),
        ({"max_steps": 4}, ["the run ends after 4 steps, before its first validation after 5: there will be no best"]),
        (
            {"average_start_step": 10},
            ["the generator's weights are averaged from step 10 on, but the run ends after 10"],
        ),
        ({"average_start_step": 9}, []),
        ({"emulated_precision": "bf16-mixed"}, ["precision bf16-mixed: this GPU has no bfloat16 instructions"]),
        (
            {"emulated_precision": "bf16-mixed", "device": "process"},
            ["precision bf16-mixed: this processor has no bfloat16 instructions"],
        ),
        ({"average_start_step": 30000, "max_epochs": -1}, []),
    ],
)
def test_warnings(changes: dict, warnings: list[str]):
    found = describe_run(plan_of_numbers(**changes)).warnings
    assert len(found) == len(warnings)
    assert all(text.startswith(start) for text, start in zip(found, warnings, strict=True))


def test_joined_batch_norm_is_not_advised_twice():
    (warning,) = describe_run(plan_of_numbers(batch_size=4, sync_batchnorm=True)).warnings
    assert "sync_batchnorm" not in warning


def test_the_plan_is_that_of_the_config_and_what_is_built_of_it(tmp_path: Path):
    """Eight images in batches of two on one process; nothing of a file or a trainer is made up."""
    write_data(tmp_path / "data", val_images=3)
    overrides = ["trainer.kwargs.max_epochs=3", "+training_model.average_generator=true", "data.batch_size=3"]
    settings: Any = OmegaConf.to_container(compose_run(tmp_path, *overrides), resolve=True)
    data = make_data_module(settings)
    plan = plan_of(settings, data, make_trainer(settings, tmp_path / "run"))
    assert (plan.images, plan.batch_size, plan.batches, plan.processes) == (8, 3, 3, 1)
    assert (plan.steps, plan.epoch_steps, plan.val_images) == (9, 3, {"val": 3, "test": 3})
    assert (plan.average_start_step, plan.save_top_k, plan.save_last) == (30000, 5, True)
    summary = describe_run(plan)
    assert "batch: 3 images a step" in summary.text
    assert any(text.startswith("the generator's weights are averaged from step 30,000 on") for text in summary.warnings)


@pytest.mark.parametrize(("precision", "supported", "expected"), [
    ("bf16-mixed", False, "bf16-mixed"), ("bf16-mixed", True, None), ("32-true", False, None),
])  # fmt: skip
def test_a_precision_without_instructions_is_found(tmp_path: Path, monkeypatch, precision, supported, expected):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    write_data(tmp_path / "data")
    settings: Any = OmegaConf.to_container(compose_run(tmp_path, f"trainer.kwargs.precision={precision}"), resolve=True)
    plan = plan_of(settings, make_data_module(settings), make_trainer(settings, tmp_path / "run"))
    assert plan.emulated_precision == expected


def test_processes_without_gpus_are_called_so():
    assert (
        "4 images a process x 2 processes = 8 images"
        in describe_run(plan_of_numbers(batch_size=4, processes=2, device="process")).text
    )


class Counter(pl.LightningModule):
    """Counts what Lightning does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.validated_at: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def on_validation_start(self) -> None:
        self.validated_at.append(self.global_step)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "limit_train_batches": 4},
        {"max_epochs": 3, "limit_train_batches": 0.5},
        {"max_epochs": 3, "limit_train_batches": 100},
        {"max_epochs": 3, "val_check_interval": 3},
        {"max_epochs": 3, "val_check_interval": 0.25},
        {"max_epochs": 5, "check_val_every_n_epoch": 2},
        {"max_epochs": 5, "check_val_every_n_epoch": 2, "val_check_interval": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": None, "val_check_interval": 7},
        {"max_epochs": 10, "max_steps": 23},
        {"max_epochs": 10, "max_steps": 28, "val_check_interval": 4, "check_val_every_n_epoch": 3},
        {"max_epochs": 10, "max_steps": 34, "val_check_interval": 4, "check_val_every_n_epoch": 3},
        {"max_epochs": None, "max_steps": 15},
    ],
)
def test_it_counts_as_lightning_does(kwargs: dict):
    loader = DataLoader(torch.zeros(20), batch_size=2)
    model = Counter()
    trainer = pl.Trainer(
        **kwargs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader, loader)
    plan = plan_of_numbers(images=20, batch_size=2, batches=10, **kwargs)
    assert plan.epoch_steps == trainer.num_training_batches
    assert plan.steps == trainer.global_step
    assert plan.validations == len(model.validated_at)
    assert plan.first_validation == model.validated_at[0]


@pytest.mark.parametrize(("supported", "expected"), [(False, "bf16-mixed"), (True, None)])
def test_a_gpu_that_emulates_bfloat16_is_found(monkeypatch, supported, expected):
    """torch says by default that such a GPU supports it."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or supported
    )
    trainer: Any = SimpleNamespace(precision="bf16-mixed", accelerator=CUDAAccelerator())
    assert summary._emulated_precision(trainer) == expected
