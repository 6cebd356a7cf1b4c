"""What checkpoints and other callbacks wait for: a value that no validation logs is found before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import EarlyStopping

from saicinpainting.training.checkpoints import MONITOR, BestModelCheckpoint
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import write_data
from tests.runs import compose_run

STOPPING = "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.checkpoint_kwargs.monitor=val_sim_total_mean"], rf"{MONITOR}=val_sim_total_mean is not computed"),
        ([STOPPING, "+callbacks.stop.monitor=val_sim_total_mean"], r"EarlyStopping\.monitor=val_sim.*mean 'val_ssim_t"),
        (
            [STOPPING, "+callbacks.stop.monitor=val_sim", "trainer.kwargs.num_sanity_val_steps=1"],
            r"callbacks: EarlyStopping\.monitor=val_sim is not computed by this config; known: .*val_ssim_total_mean",
        ),
    ],
)
def test_a_mistyped_monitor_is_found_before_the_first_step(tmp_path: Path, words: list[str], message: str):
    write_data(tmp_path / "data", train_images=2)
    with pytest.raises(InputError, match=message):
        train(compose_run(tmp_path, *words), tmp_path / "run")
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val_ssim_total_mean", "max"), ("val_gen_l1", "min")], ids=["highest", "lowest"]
)
def test_a_run_that_was_moved_keeps_its_best_checkpoints(tmp_path: Path, monitor: str, mode: str):
    """It goes on much worse, and has room for one more."""
    write_data(tmp_path / "data", train_images=2)
    judged = (f"trainer.checkpoint_kwargs.monitor={monitor}", f"trainer.checkpoint_kwargs.mode={mode}")
    keeps_two = (*judged, "trainer.checkpoint_kwargs.save_top_k=2", "+trainer.kwargs.enable_progress_bar=false")
    train(compose_run(tmp_path, *keeps_two), tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    models = tmp_path / "moved" / "models"
    best, *_ = before = models / "best.ckpt", models / "epoch=0-step=1.ckpt"
    content = best.read_bytes()
    worse = ("optimizers.generator.lr=1", "trainer.resume_lr=true", "trainer.resume_from_checkpoint=auto")
    train(compose_run(tmp_path, *keeps_two, *worse, "trainer.kwargs.max_epochs=3"), tmp_path / "moved")
    assert all(path.read_bytes() == content for path in before)
    assert len(list(models.glob("epoch=*.ckpt"))) == 2


def test_a_run_that_was_moved_keeps_no_more_than_the_newest_where_nothing_is_monitored(tmp_path: Path):
    write_data(tmp_path / "data", train_images=2)
    newest = (
        "trainer.checkpoint_kwargs.monitor=null",
        "trainer.checkpoint_kwargs.save_top_k=1",
        "data.visual_test=null",
    )
    for epochs, folder in enumerate(("run", "moved"), 1):
        more = (f"trainer.kwargs.max_epochs={epochs}", "trainer.resume_from_checkpoint=auto")
        train(compose_run(tmp_path, *newest, *more), tmp_path / folder)
        if folder == "run":
            shutil.move(tmp_path / "run", tmp_path / "moved")
    names = {path.name for path in (tmp_path / "moved" / "models").iterdir()}
    assert names == {"epoch=1-step=2.ckpt", "best.ckpt", "last.ckpt"}


@pytest.mark.parametrize(
    "monitor",
    [
        "val_ssim_total_mean",
        "test_gen_l1",
        "_val_ssim_90-100%_mean",
        "val_fid_total_mean",
        "train_gen_l1",
        "lr",
        "mine",
    ],
)
def test_a_callback_may_wait_for_whatever_is_logged(monitor: str):
    """In the sanity check of one image, with its losses and scores, and before it."""
    judge = BestModelCheckpoint(monitor="val_ssim_total_mean", scores=["ssim", "fid"])
    stop, foreign = EarlyStopping(monitor), ForeignStopping("val_own_total_mean")
    measured = {"val_ssim_total_mean", "test_gen_l1"}
    for callbacks in ([judge, stop], [judge, stop, foreign]):
        trainer = SimpleNamespace(callbacks=callbacks, callback_metrics={}, num_sanity_val_batches=[1, 2])
        judge.on_fit_start(trainer, None)
        judge.on_sanity_check_end(trainer, SimpleNamespace(measured=measured))


def test_the_sanity_check_of_a_resumed_run_measures_what_is_costly_too():
    evaluator, trainer = SimpleNamespace(round=None), SimpleNamespace(sanity_checking=True, world_size=1)
    sets = {"_val_titles": lambda: ["val"], "_evaluator": lambda title: evaluator}
    InpaintingModule.on_validation_start(SimpleNamespace(trainer=trainer, validations=3, **sets))
    assert evaluator.round == 0


class ForeignStopping(EarlyStopping):
    """Stands for a callback that may log values of its own."""
