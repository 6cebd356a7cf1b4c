"""What a run says of itself at its start, against numbers worked out by hand and against Lightning's own counting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.training.parts import ModuleOptions
from saicinpainting.training.strategy import make_ddp_strategy
from saicinpainting.training.summary import describe_run, emulates_precision, first_validation, steps_of, warnings_of


def data_of(*, images: int = 100, batch_size: int = 20, batches: int = 5) -> Any:
    """What a summary asks of the data."""
    return SimpleNamespace(
        batch_size=lambda processes: batch_size * processes,
        micro_batch_size=lambda: batch_size,
        micro_batches=1,
        train_batches=lambda processes: batches,
        train_images=lambda: images,
        images=lambda: {"data.train": images, "data.val": 10},
        val_titles=["val"],
    )


def trainer_of(**changes: Any) -> Any:
    usual = {"world_size": 1, "limit_train_batches": 1.0, "max_epochs": 2, "max_steps": -1, "val_check_interval": 1.0}
    usual |= {"check_val_every_n_epoch": 1, "precision": "32-true", "accelerator": CPUAccelerator()}
    usual |= {"limit_val_batches": 1.0}
    return SimpleNamespace(**{**usual, **changes})


def model_of(average_from: int | None = None) -> Any:
    average = None if average_from is None else SimpleNamespace(start_step=average_from)
    networks = {name: torch.nn.Sequential(BatchNorm2d(1)) for name in ("generator", "discriminator")}
    return SimpleNamespace(**networks, generator_average=average, options=ModuleOptions())


def test_big_lama_on_eight_gpus():
    trainer = trainer_of(
        world_size=8,
        limit_train_batches=25_000,
        max_epochs=40,
        val_check_interval=25_000,
        accelerator=CUDAAccelerator(),
    )
    data = data_of(images=4_500_000, batch_size=15, batches=37_500)
    assert describe_run(model_of(), data, trainer).splitlines() == [
        "  generator: 0.00M parameters",
        "  images: train 4,500,000, val 10",
        "  batch: 15 images x 8 = 120 a step",
        "  steps: 25,000 an epoch, 1,000,000 in all, every image 26.7 times",
        "  validation: every 25,000 steps",
        "  device: CUDA x 8, precision 32-true, compile auto",
    ]
    assert list(warnings_of(model_of(), data, trainer)) == []


def test_a_run_that_validates_nothing_says_so():
    without = data_of()
    without.val_titles = []
    for data, trainer, why in (
        (data_of(), trainer_of(limit_val_batches=0), "trainer.kwargs.limit_val_batches=0"),
        (without, trainer_of(), "data.val=null"),
        (without, trainer_of(max_epochs=-1), "data.val=null"),
    ):
        assert "  validation: none" in describe_run(model_of(), data, trainer).splitlines()
        (warning,) = warnings_of(model_of(), data, trainer)
        assert warning.startswith(f"{why}: no validation, so there will be no best.ckpt")


def test_a_run_without_an_end_says_so():
    text = describe_run(model_of(), data_of(), trainer_of(max_epochs=-1))
    assert "steps: 5 an epoch, no end is set (max_epochs, max_steps)" in text
    assert "every 1 epoch" in text


def test_epochs_without_a_validation_are_told():
    trainer = trainer_of(max_epochs=5, check_val_every_n_epoch=5, val_check_interval=0.5)
    lines = describe_run(model_of(), data_of(), trainer).splitlines()
    assert "  validation: every 0.5 epoch, in one of 5 epochs" in lines


@pytest.mark.parametrize(
    ("trainer", "average_from", "warnings"),
    [
        ({}, None, []),
        ({"world_size": 2}, None, []),
        ({"max_steps": 4}, None, ["the run ends after 4 steps, before its first validation after 5: there will be no"]),
        ({}, 10, ["the generator's weights are averaged from step 10 on, but the run ends after 10"]),
        ({}, 9, []),
        ({"max_epochs": -1}, 30000, []),
    ],
)
def test_mistakes_are_told(trainer: dict, average_from: int | None, warnings: list[str]):
    found = list(warnings_of(model_of(average_from), data_of(), trainer_of(**trainer)))
    assert len(found) == len(warnings)
    assert all(text.startswith(start) for text, start in zip(found, warnings, strict=True))


@pytest.mark.parametrize(("batch_size", "processes", "told"), [(19, 1, True), (20, 1, False), (5, 4, False)])
def test_batch_norm_with_few_images_is_told(batch_size: int, processes: int, told: bool):
    found = list(warnings_of(model_of(), data_of(batch_size=batch_size), trainer_of(world_size=processes)))
    assert [text[:42] for text in found] == ["19 images a step: quality degrades below 2"] * told


def test_a_network_that_was_built_in_eval_mode_is_told():
    model = model_of()
    model.discriminator.eval()
    (warning,) = warnings_of(model, data_of(), trainer_of())
    assert warning.startswith("discriminator: built in eval mode")


def test_norms_that_keep_their_statistics_may_see_few_images():
    trainer, data = trainer_of(world_size=1), data_of(batch_size=19)
    one, other = model_of(), model_of()
    one.generator[0].freeze()  # as generator.identity_init does
    other.options = ModuleOptions(frozen_batch_norm=True)
    assert [list(warnings_of(model, data, trainer)) for model in (one, other)] == [[], []]


@pytest.mark.parametrize(("precision", "supported", "expected"), [
    ("bf16-mixed", False, True), ("bf16-mixed", True, False), ("32-true", False, False),
])  # fmt: skip
def test_a_precision_without_instructions_is_found(monkeypatch, precision, supported, expected):
    """torch says by default that a GPU which emulates bfloat16 supports it."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or supported
    )
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    for accelerator, instead in ((CPUAccelerator(), "precision=32"), (CUDAAccelerator(), "precision=16-mixed")):
        trainer = trainer_of(precision=precision, accelerator=accelerator, strategy=make_ddp_strategy("ddp"))
        monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("cpu"))
        assert emulates_precision(trainer) == expected
        assert [text.endswith(instead) for text in warnings_of(model_of(), data_of(), trainer)] == [True] * expected


@pytest.mark.parametrize(
    ("name", "asked"), [("ddp", [1, "asked"]), ("ddp_spawn", [1, "asked"]), ("ddp_notebook", []), ("ddp_fork", [])]
)
def test_the_runs_own_card_is_asked_unless_processes_are_to_be_forked(monkeypatch, name, asked):
    """A fork of a process that has used CUDA cannot use it."""
    cards: list[Any] = []

    @contextlib.contextmanager
    def on(device: torch.device) -> Iterator[None]:
        cards.append(device.index)
        yield

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cards.append("asked") is None)
    strategy = make_ddp_strategy(name)
    monkeypatch.setattr(type(strategy), "root_device", torch.device("cuda", 1))
    strategy.cluster_environment = LightningEnvironment()
    strategy._configure_launcher()
    assert not emulates_precision(trainer_of(precision="bf16-mixed", accelerator=CUDAAccelerator(), strategy=strategy))
    assert cards == asked


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
        {"max_epochs": 5, "check_val_every_n_epoch": 2, "val_check_interval": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": None, "val_check_interval": 7},
        {"max_epochs": 10, "max_steps": 23},
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
    epoch, steps = steps_of(data_of(images=20, batch_size=2, batches=10), trainer)
    assert (epoch, steps) == (trainer.num_training_batches, trainer.global_step)
    assert first_validation(epoch, trainer) == model.validated_at[0]
