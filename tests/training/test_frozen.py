"""Parts of the networks that a run leaves as they are."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.frozen import frozen_parameters
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, golden_config
from tests.helpers import assert_same, fill, write_data
from tests.runs import compose_run


def networks() -> dict[str, nn.Module]:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))

    return {
        "generator": nn.ModuleDict({"model": nn.Sequential(*(layer() for _ in range(12)))}),
        "discriminator": nn.ModuleDict({"model0": layer(), "model1": layer()}),
    }


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["generator.model.1"], ["generator.model.1.0.weight", "generator.model.1.1.weight"]),  # not model.10
        (["generator.model.9-10.1"], ["generator.model.9.1.weight", "generator.model.10.1.weight"]),
        (["*.model?.0"], ["discriminator.model0.0.weight", "discriminator.model1.0.weight"]),
        (
            ["discriminator.model0", "generator.model.0.0.weight"],
            ["discriminator.model0.0.weight", "discriminator.model0.1.weight", "generator.model.0.0.weight"],
        ),
    ],
)
def test_a_pattern_names_parts_and_all_that_is_inside_them(patterns: list[str], expected: list[str]):
    assert frozen_parameters(patterns, networks()) == set(expected)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["generator.model.12"],
            r"frozen_parts: generator\.model\.12 names no part with weights; .*generator\.model\.11",
        ),
        (["generator.model.0", "discriminator.model"], r"discriminator\.model names no part.*did you mean .*model1"),
        (["generator.model"], "nothing of the generator is left to train"),
        (["*"], "nothing of the generator is left to train"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_named(patterns: list[str], message: str):
    with pytest.raises(InputError, match=message):
        frozen_parameters(patterns, networks())


# ---- in a run -------------------------------------------------------------------------------------------------------

ENCODER = "generator.model.1-4"
FIRST = "discriminator.model0"


def trained(patterns: list[str], steps: int = 2, **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model after so many golden steps in float64, and its state before them."""
    config = golden_config()
    config["training_model"] |= {"frozen_parts": patterns, **settings}
    config["trainer"]["kwargs"]["gradient_clip_val"] = None  # which would join all gradients
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    model.double()
    before = copy.deepcopy(model.state_dict())
    trainer = pl.Trainer(
        accelerator="cpu", precision="64-true", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(GoldenBatches(), batch_size=None))
    return model, before


@pytest.mark.parametrize("settings", [{}, {"checkpoint_blocks": True}])
def test_frozen_weights_and_statistics_stay_and_all_others_move(settings: dict[str, Any]):
    model, before = trained([ENCODER, FIRST], **settings)
    frozen = (*(f"generator.model.{i}." for i in range(1, 5)), f"{FIRST}.")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, before[name]) == name.startswith(frozen), name
    optimizers = model.trainer.optimizers
    held = sum(p.numel() for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    named = [*model.generator.named_parameters("generator"), *model.discriminator.named_parameters("discriminator")]
    assert held == sum(p.numel() for name, p in named if not name.startswith(frozen))


def test_the_others_learn_as_if_nothing_were_frozen():
    """In their first step, in which what is frozen has not moved yet anyway."""
    last = "generator.model.*.weight"  # convolutions that stand by themselves, at the network's end
    free, _ = trained([], steps=1)
    model, before = trained([last], steps=1)
    same = [torch.equal(t, free.state_dict()[name]) for name, t in model.generator.named_parameters("generator")]
    frozen = [torch.equal(t, before[name]) for name, t in model.generator.named_parameters("generator")]
    assert any(frozen)
    assert [not f for f in frozen] == same


def test_a_resumed_run_goes_on_with_what_it_froze_and_refuses_anything_else(tmp_path: Path, caplog):
    write_data(tmp_path / "data")
    extra = (
        "data.val=null", "data.visual_test=null", "+trainer.kwargs.enable_progress_bar=false",
        "trainer.resume_from_checkpoint=auto",
    )  # fmt: skip
    frozen = (*extra, f"+training_model.frozen_parts=[{ENCODER},{FIRST}]")
    with caplog.at_level(logging.INFO):
        train(compose_run(tmp_path, *frozen, "trainer.kwargs.max_epochs=2"), tmp_path / "whole")
    (line,) = (line for line in caplog.text.splitlines() if "trained, as frozen_parts leaves it" in line)
    for epochs in (1, 2):
        train(compose_run(tmp_path, *frozen, f"trainer.kwargs.max_epochs={epochs}"), tmp_path / "resumed")
    whole, resumed = (read_checkpoint(tmp_path / name / "models" / "last.ckpt") for name in ("whole", "resumed"))
    for name, optimizer in zip(("generator", "discriminator"), whole["optimizer_states"], strict=True):
        assert f"{name} {sum(state['exp_avg'].numel() for state in optimizer['state'].values()):,}" in line
    for part in ("state_dict", "optimizer_states"):
        assert_same(resumed[part], whole[part], part)
    with pytest.raises(
        InputError, match=r"trained \d+ parameters of the generator, this config trains \d+: training_mo"
    ):
        train(compose_run(tmp_path, *extra, "trainer.kwargs.max_epochs=3"), tmp_path / "resumed")
