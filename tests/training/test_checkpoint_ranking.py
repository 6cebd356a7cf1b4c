"""Ranking the checkpoints of a real run, shrunk, and of files in the layout of the official code's runs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.training.checkpoint_ranking import rank_checkpoints, ranking_text
from saicinpainting.training.log_reports import read_runs
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import write_data
from tests.runs import compose_run, write_log

SSIM = "val_ssim_total_mean"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of three epochs of four steps; the experiment is in `run`."""
    root = tmp_path_factory.mktemp("ranking")
    write_data(root / "data")
    train(compose_run(root, "trainer.kwargs.max_epochs=3"), root / "run")
    return root


def logged(root: Path, metric: str) -> dict[int, float]:
    (file,) = (root / "tb" / "run").rglob("events*")
    board = EventAccumulator(str(file))
    board.Reload()
    return {scalar.step: scalar.value for scalar in board.Scalars(metric)}


@pytest.mark.parametrize(("metric", "direction"), [(SSIM, "max"), ("val_gen_l1", "min")])
def test_a_run_is_ranked_by_what_was_logged_after_each_epoch(finished: Path, metric: str, direction: str):
    ranking = rank_checkpoints(finished / "run" / "models", metric, direction, read_runs(finished / "run")[0])
    values = logged(finished, metric)
    expected = {f"epoch={epoch}-step={4 * (epoch + 1)}.ckpt": values[4 * epoch + 3] for epoch in range(3)}
    order = sorted(expected, key=expected.__getitem__, reverse=direction == "max")
    assert [c.path.name for c in ranking.candidates if c.path.name != "last.ckpt"] == order
    for candidate in ranking.candidates:
        assert candidate.steps == 4 * (candidate.epoch + 1)
        assert candidate.value == values[candidate.steps - 1]
    last = next(c for c in ranking.candidates if c.path.name == "last.ckpt")
    assert (last.epoch, last.steps) == (2, 12)
    # best.ckpt is a link to the best by SSIM, whatever is asked for.
    by_ssim = logged(finished, SSIM)
    assert ranking.is_best is not None
    assert ranking.is_best.steps - 1 == max(by_ssim, key=by_ssim.__getitem__)
    assert ranking.is_best.path.name != "last.ckpt"


def test_without_logs_the_monitored_scores_of_the_files_do(finished: Path):
    models = finished / "run" / "models"
    with_log = rank_checkpoints(models, SSIM, "max", read_runs(finished / "run")[0])
    without = rank_checkpoints(models, SSIM, "max", None)
    values = {c.path.name: c.value for c in without.candidates}
    assert values.pop("last.ckpt") is None
    assert values == pytest.approx({c.path.name: c.value for c in with_log.candidates if c.path.name in values})
    assert rank_checkpoints(models, "val_gen_l1", "min", None).best is None


def official_checkpoint(path: Path, *, steps: int, epoch: int, score: float) -> None:
    """As Lightning 1.2.9 wrote it: the next epoch's number, one more than the step that TensorBoard has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"monitor": SSIM, "best_model_score": torch.tensor(0.9), "current_score": torch.tensor(score)}
    content = {
        "epoch": epoch + 1,
        "global_step": steps,
        "pytorch-lightning_version": "1.2.9",
        "state_dict": {"generator.weight": torch.ones(1)},
        "callbacks": {pl.callbacks.ModelCheckpoint: state},
    }
    torch.save(content, path)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Two epochs of 25,000 steps kept of three, the middle one the best, `last.ckpt` of the third."""
    for epoch, score in ((0, 0.5), (1, 0.75), (2, 0.625)):
        name = f"epoch={epoch}-step={25000 * (epoch + 1) - 1}.ckpt"
        official_checkpoint(tmp_path / "run" / "models" / name, steps=25000 * (epoch + 1), epoch=epoch, score=score)
    third = tmp_path / "run" / "models" / "epoch=2-step=74999.ckpt"
    third.rename(third.with_name("last.ckpt"))
    write_log(tmp_path / "tb", {SSIM: {24999: 0.5, 49999: 0.75, 74999: 0.625}, "val_gen_adv": {24999: 1.0}})
    return tmp_path


@pytest.mark.parametrize("with_log", [True, False])
def test_runs_of_the_official_code_are_understood(official: Path, with_log: bool):
    log = read_runs(official / "tb")[0] if with_log else None
    ranking = rank_checkpoints(official / "run" / "models", SSIM, "max", log)
    found = [(c.path.name, c.epoch, c.steps, c.value) for c in ranking.candidates]
    expected = [
        ("epoch=1-step=49999.ckpt", 1, 50000, 0.75),
        ("last.ckpt", 2, 75000, 0.625),
        ("epoch=0-step=24999.ckpt", 0, 25000, 0.5),
    ]
    if not with_log:  # last.ckpt does not say its own score
        expected = [expected[0], expected[2], ("last.ckpt", 2, 75000, None)]
    assert found == expected
    assert ranking.is_best is None
    assert "the best is epoch=1-step=49999.ckpt; there is no best.ckpt" in ranking_text(ranking)


def test_steps_are_batches_where_lightning_counted_optimizers(official: Path):
    """Lightning 1.6 to 1.9 under the official code: two optimizer steps a batch, the loops count batches."""
    path = official / "run" / "models" / "epoch=1-step=49999.ckpt"
    content = torch.load(path, weights_only=False)
    progress = {"epoch_loop.batch_progress": {"total": {"ready": 50000, "completed": 49999}}}
    torch.save({**content, "global_step": 100000, "epoch": 1, "loops": {"fit_loop": progress}}, path)
    ranking = rank_checkpoints(path.parent, SSIM, "max", read_runs(official / "tb")[0])
    assert (ranking.candidates[0].steps, ranking.candidates[0].value) == (50000, 0.75)


def test_a_better_value_whose_checkpoint_is_gone_is_told(official: Path):
    models = official / "run" / "models"
    (models / "epoch=1-step=49999.ckpt").unlink()
    text = ranking_text(rank_checkpoints(models, SSIM, "max", read_runs(official / "tb")[0]))
    assert "better than all of them was 0.75 after 50000 steps; no checkpoint of it is left" in text
    assert "the best is last.ckpt" in text


@pytest.mark.parametrize(("copied", "verdict"), [
    ("epoch=1-step=49999.ckpt", "best.ckpt is the best"),
    ("epoch=0-step=24999.ckpt", "the best is epoch=1-step=49999.ckpt; best.ckpt is epoch=0-step=24999.ckpt"),
])  # fmt: skip
@pytest.mark.parametrize("link", [True, False])
def test_best_is_recognised_as_a_link_and_as_a_copy(official: Path, copied: str, verdict: str, link: bool):
    models = official / "run" / "models"
    if link:
        os.link(models / copied, models / "best.ckpt")
    else:
        (models / "best.ckpt").write_bytes((models / copied).read_bytes())
    ranking = rank_checkpoints(models, SSIM, "max", read_runs(official / "tb")[0])
    assert ranking.is_best is not None
    assert ranking.is_best.path.name == copied
    assert len(ranking.candidates) == 3
    assert ranking_text(ranking).splitlines()[-1] == verdict


def test_best_is_a_file_that_stays_rather_than_last(official: Path):
    """Both are of the same step; the name comes after last.ckpt in the alphabet."""
    models = official / "run" / "models"
    for name in ("step=75000.ckpt", "best.ckpt"):
        os.link(models / "last.ckpt", models / name)
    ranking = rank_checkpoints(models, SSIM, "max", read_runs(official / "tb")[0])
    assert ranking.is_best is not None
    assert ranking.is_best.path.name == "step=75000.ckpt"


def test_a_best_of_which_nothing_else_is_left_has_a_row(official: Path):
    models = official / "run" / "models"
    (models / "epoch=1-step=49999.ckpt").rename(models / "best.ckpt")
    ranking = rank_checkpoints(models, SSIM, "max", read_runs(official / "tb")[0])
    assert ranking.candidates[0].path.name == "best.ckpt"
    assert ranking_text(ranking).splitlines()[-1] == "best.ckpt is the best"


def test_what_has_no_value_comes_last_and_says_why(official: Path):
    models = official / "run" / "models"
    (models / "epoch=5-step=1.ckpt").write_bytes(b"damaged")
    torch.save({"state_dict": {"w": torch.ones(1)}}, models / "weights.ckpt")
    official_checkpoint(models / "epoch=6-step=99.ckpt", steps=100, epoch=6, score=0)
    official_checkpoint(models / "epoch=7-step=199.ckpt", steps=200, epoch=7, score=0)
    write_log(official / "tb2", {SSIM: {24999: 0.5, 199: math.nan}})
    ranking = rank_checkpoints(models, SSIM, "max", read_runs(official / "tb2")[0])
    assert ranking.candidates[0].value == 0.5
    assert {c.path.name: c.note for c in ranking.candidates[1:]} == {
        "epoch=1-step=49999.ckpt": "no value at its step",
        "epoch=5-step=1.ckpt": "cannot be read",
        "epoch=6-step=99.ckpt": "no value at its step",
        "epoch=7-step=199.ckpt": "its value is nan",
        "last.ckpt": "no value at its step",
        "weights.ckpt": "does not say its step",
    }


def test_what_cannot_be_ranked_is_named(official: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"no checkpoints in it \(\*\.ckpt\)"):
        rank_checkpoints(tmp_path / "nowhere", SSIM, "max", None)
    with pytest.raises(InputError, match=f"tb: val_ssim was not logged; known: val_gen_adv, {SSIM}"):
        rank_checkpoints(official / "run" / "models", "val_ssim", "max", read_runs(official / "tb")[0])
