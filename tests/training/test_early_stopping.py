"""Early stopping counts the validations that measured its value, before a resume and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.metrics.ssim import SSIMScore
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import write_data
from tests.runs import TinyFID, compose_run, scalars

QUIET = ("data.visual_test=null", "+trainer.kwargs.enable_progress_bar=false", "trainer.resume_from_checkpoint=auto")
WORSE = "optimizers.generator.lr=0.1"
STOPPING = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")
BY_FID = (
    "evaluator=default_inpainted",
    "evaluator.lpips=false",
    "evaluator.costly_every=2",
    "trainer.checkpoint_kwargs.monitor=val_ssim_fid100_f1_total_mean",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path / "data", train_images=2, val_images=3)
    scores = {"ssim": SSIMScore, "fid": TinyFID}
    make = "saicinpainting.metrics.evaluator.make_metrics"
    monkeypatch.setattr(make, lambda **_: {name: score() for name, score in scores.items()})
    return tmp_path


def run(root: Path, name: str, epochs: int, *extra: str) -> dict[str, Any]:
    """A step an epoch; the state of early stopping in its last.ckpt."""
    config = compose_run(root, *QUIET, WORSE, *extra, f"trainer.kwargs.max_epochs={epochs}")
    train(config, root / name)
    callbacks = read_checkpoint(root / name / "models" / "last.ckpt")["callbacks"]
    return next((state for key, state in callbacks.items() if key.startswith("EarlyStopping")), {})


def validations(root: Path, name: str, score: str) -> list[int]:
    return [step for tag, step in sorted(scalars(root, name)) if tag == f"val_{score}_total_mean"]


def test_a_resumed_run_stops_where_the_whole_one_does(root: Path):
    whole = run(root, "whole", 9, *STOPPING)
    assert validations(root, "whole", "ssim") == list(range(whole["stopped_epoch"] + 1))
    assert whole["stopped_epoch"] < 8
    for epochs in (1, 2, 9):
        resumed = run(root, "resumed", epochs, *STOPPING)
    assert resumed == whole
    assert validations(root, "resumed", "ssim") == validations(root, "whole", "ssim")


def test_a_validation_without_the_value_does_not_count(root: Path):
    by_fid = ("callbacks.early_stopping.monitor=val_fid_total_mean", "callbacks.early_stopping.mode=min")
    state = run(root, "fid", 12, *STOPPING, *by_fid, *BY_FID)
    measured = validations(root, "fid", "fid")
    assert measured == list(range(0, measured[-1] + 1, 2))
    assert len(measured) >= 3  # the first, and two that are no better
    assert state["stopped_epoch"] == measured[-1]


def test_a_run_goes_on_with_a_validation_that_lacks_what_checkpoints_are_judged_by(root: Path):
    for epochs in (1, 2, 3):
        run(root, "judged", epochs, *BY_FID)
    assert validations(root, "judged", "fid") == [0, 2]
    assert {path.name for path in (root / "judged" / "models").glob("epoch*")} == {
        "epoch=0-step=1.ckpt",
        "epoch=2-step=3.ckpt",
    }


def test_a_value_that_is_not_logged_by_then_is_named(root: Path):
    rarely = ("callbacks.early_stopping.monitor=train_gen_l1", "trainer.kwargs.log_every_n_steps=250")
    with pytest.raises(
        InputError, match=r"EarlyStopping\.monitor=train_gen_l1 has no value after 1 .* every 250 steps"
    ):
        run(root, "rarely", 1, *STOPPING, *rarely)
