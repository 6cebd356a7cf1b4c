"""A run that was stopped anywhere and goes on is the run that was not, bit for bit."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.io.signals import EXIT_STATUS
from saicinpainting.metrics.ssim import SSIMScore
from saicinpainting.training.interrupts import Stopped
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.resume import resume_path
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.helpers import assert_same, write_data
from tests.runs import TinyFID, assert_same_run, compose_run, scalars

STEPS = 4  # an epoch: seven images in batches of two
QUIET = ("+trainer.kwargs.enable_progress_bar=false", "+trainer.kwargs.enable_model_summary=false")
VARIANTS = {
    "validation at the epoch's end": (),
    "validation within the epoch": ("trainer.kwargs.val_check_interval=2",),
}


def run(root: Path, name: str, *extra: str) -> dict[str, Any]:
    """Train two epochs into `root/name`; its last.ckpt."""
    location = f"location.tb_dir={root / 'tb'}"
    train(compose_run(root, "trainer.kwargs.max_epochs=2", location, *QUIET, *extra), root / name)
    return read_checkpoint(root / name / "models" / "last.ckpt")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    write_data(root / "data", train_images=2 * STEPS - 1)
    for title, overrides in VARIANTS.items():
        run(root, title, *overrides)
    return root


@pytest.fixture
def signal_in(monkeypatch: pytest.MonkeyPatch):
    """`signal_in(step, hook)`: this process gets a signal while it is in `hook` of that step, once."""

    def arm(step: int, hook: str = "training_step", number: signal.Signals = signal.SIGTERM) -> None:
        original, sent = getattr(InpaintingModule, hook), []

        def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if self.trainer.global_step == step and not self.trainer.sanity_checking and not sent:
                sent.append(True)
                os.kill(os.getpid(), number)
            return result

        monkeypatch.setattr(InpaintingModule, hook, hooked)

    return arm


def stop(root: Path, name: str, *extra: str) -> None:
    with pytest.raises(Stopped) as stopped:
        run(root, name, *extra)
    assert stopped.value.code == EXIT_STATUS


@pytest.mark.parametrize(
    ("title", "step"),
    [("validation within the epoch", step) for step in range(1, STEPS + 2)]
    + [("validation at the epoch's end", step) for step in (STEPS - 1, STEPS, 2 * STEPS)],
)
def test_stopped_after_any_step(root: Path, signal_in, title: str, step: int):
    """The last of an epoch, of the run, and those with a validation among them."""
    name = f"step {step}, {title}"
    signal_in(step)
    stop(root, name, *VARIANTS[title])
    stopped = read_checkpoint(root / name / "models" / "last.ckpt")
    assert (stopped["epoch"], stopped["global_step"]) == ((step - 1) // STEPS, step)
    run(root, name, *VARIANTS[title], "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, name, title)


def test_a_penalty_that_is_not_computed_in_every_step_is_logged_as_it_was_before_the_resume(root: Path, signal_in):
    lazy = "+losses.adversarial.gp_interval=3"
    run(root, "lazy", lazy)
    signal_in(STEPS + 1)
    stop(root, "lazy, stopped", lazy)
    run(root, "lazy, stopped", lazy, "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "lazy, stopped", "lazy")


def test_a_run_that_goes_on_with_a_loss_without_penalty_logs_none(root: Path):
    one, two = (f"trainer.kwargs.max_epochs={epochs}" for epochs in (1, 2))
    run(root, "r1, then bce", one)
    bce = ("losses.adversarial.kind=bce", "~losses.adversarial.gp_coef")
    run(root, "r1, then bce", two, *bce, "trainer.resume_from_checkpoint=auto")
    assert max(step for name, step in scalars(root, "r1, then bce") if name.endswith("_gp")) == STEPS - 1


def test_what_checkpoints_and_early_stopping_are_judged_by_may_come_of_the_step_before_the_resume(
    root: Path, signal_in
):
    judged_by_training = (
        "trainer.checkpoint_kwargs.monitor=train_gen_l1",
        "trainer.checkpoint_kwargs.mode=min",
        "callbacks=early_stopping",
        "callbacks.early_stopping.monitor=train_gen_l1",
    )
    run(root, "judged", *judged_by_training)
    signal_in(STEPS)
    stop(root, "judged, stopped", *judged_by_training)
    run(root, "judged, stopped", *judged_by_training, "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "judged, stopped", "judged")


@pytest.mark.parametrize("title", VARIANTS)
@pytest.mark.parametrize("step", [STEPS // 2, STEPS])
def test_stopped_in_a_validation_which_is_repeated(root: Path, signal_in, title: str, step: int):
    if step == STEPS // 2 and not VARIANTS[title]:
        step = 2 * STEPS  # the end of the run
    name = f"validation {step}, {title}"
    signal_in(step, "validation_step")
    stop(root, name, *VARIANTS[title])
    assert not scalars(root, name).keys() & {("val_ssim_total_mean", step - 1)}
    run(root, name, *VARIANTS[title], "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, name, title)


def test_a_run_that_stops_in_a_validation_ends_its_workers(root: Path, signal_in):
    """Those of the training, too, which wait for the validation to end."""
    signal_in(STEPS, "validation_step")
    stop(root, "workers in a validation", "data.num_workers=2")
    assert not multiprocessing.active_children()


def test_slurm_s_signal_stops_as_any_other(root: Path, signal_in, monkeypatch: pytest.MonkeyPatch):
    """Lightning would write a checkpoint of its own in the middle of the step, go on, and have the job requeued."""
    job = {"JOB_ID": "17", "JOB_NAME": "lama", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    signal_in(3, number=signal.SIGUSR1)
    stop(root, "slurm")
    assert read_checkpoint(root / "slurm" / "models" / "last.ckpt")["global_step"] == 3
    assert not list((root / "slurm").glob("*hpc*"))
    run(root, "slurm", "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "slurm", "validation at the epoch's end")


@pytest.mark.parametrize("step", [1, 4, 6])
def test_max_steps_then_more(root: Path, step: int):
    """`last.ckpt` is that of the last step, and the epoch that was cut off goes on."""
    checkpoint = run(root, f"cut {step}", f"+trainer.kwargs.max_steps={step}")
    assert checkpoint["global_step"] == step
    whole = run(root, f"cut {step}", "trainer.resume_from_checkpoint=auto")
    expected = read_checkpoint(root / "validation at the epoch's end" / "models" / "last.ckpt")
    for part in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_same(whole[part], expected[part], part)


def test_several_workers_draw_the_same_samples(root: Path, signal_in):
    signal_in(3)
    stop(root, "workers", "data.num_workers=1")
    run(root, "workers", "data.num_workers=2", "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "workers", "validation at the epoch's end")


def test_every_n_train_steps_keeps_last_up_to_date(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A crash costs the steps since; going on does what they had done."""

    def crash(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.trainer.global_step == 3:  # in the fourth step
            raise MemoryError
        original(self, *args, **kwargs)

    original = InpaintingModule.training_step
    every = "trainer.checkpoint_kwargs.every_n_train_steps=2"
    monkeypatch.setattr(InpaintingModule, "training_step", crash)
    with pytest.raises(MemoryError):
        run(root, "crash", every)
    monkeypatch.undo()
    assert read_checkpoint(root / "crash" / "models" / "last.ckpt")["global_step"] == 2
    run(root, "crash", every, "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "crash", "validation at the epoch's end")


def test_another_batch_size_goes_on_at_the_same_image(root: Path, signal_in, caplog: pytest.LogCaptureFixture):
    signal_in(2)
    stop(root, "batch")
    with caplog.at_level(logging.WARNING):
        checkpoint = run(root, "batch", "data.batch_size=3", "trainer.resume_from_checkpoint=auto")
    assert "batch_size was 2, now 3; the epoch goes on after 4 of its images" in caplog.text
    # Three images are left of the first epoch, one batch; the second has three batches.
    assert checkpoint["global_step"] == 2 + 1 + 3


def test_a_smaller_batch_leaves_the_steps_of_a_limited_epoch(root: Path):
    """`limit_train_batches` counts steps: the epoch has its third one, and its validation."""
    limit = ("trainer.kwargs.limit_train_batches=3",)
    run(root, "limit", *limit, "+trainer.kwargs.max_steps=2")
    checkpoint = run(root, "limit", *limit, "data.batch_size=1", "trainer.resume_from_checkpoint=auto")
    assert checkpoint["global_step"] == 3 + 3
    assert (root / "limit" / "models" / "epoch=0-step=3.ckpt").is_file()


def test_another_seed_or_other_images_are_reported(root: Path, signal_in, caplog: pytest.LogCaptureFixture):
    signal_in(2)
    stop(root, "seed")
    with caplog.at_level(logging.WARNING):
        run(root, "seed", "trainer.seed=5", "trainer.resume_from_checkpoint=auto")
    assert "seed was 0, now 5; in the rest of this epoch some images come twice" in caplog.text


def test_costly_metrics_come_at_every_second_validation(root: Path, signal_in, monkeypatch: pytest.MonkeyPatch):
    """From the first on, which the sanity check is not, and from there where the run stopped."""
    measured = {"ssim": SSIMScore, "fid": TinyFID}
    make = "saicinpainting.metrics.evaluator.make_metrics"
    monkeypatch.setattr(make, lambda **_: {name: metric() for name, metric in measured.items()})
    extra = (*VARIANTS["validation within the epoch"], "evaluator.costly_every=2", "evaluator.integral_kind=null",
             "trainer.kwargs.num_sanity_val_steps=1")  # fmt: skip

    def steps(name: str, metric: str) -> list[int]:
        return sorted(step for tag, step in scalars(root, name) if tag == f"val_{metric}_total_mean")

    run(root, "costly", *extra)
    every = steps("costly", "ssim")
    assert len(every) == 4
    assert steps("costly", "fid") == every[::2]
    for name, step, hook in (("costly 3", 3, "training_step"), ("costly 4", 4, "validation_step")):
        signal_in(step, hook)
        stop(root, name, *extra)
        run(root, name, *extra, "trainer.resume_from_checkpoint=auto")
        assert steps(name, "fid") == every[::2]
        assert_same_run(root, name, "costly")


# ---- which checkpoint -----------------------------------------------------------------------------------------------


def test_auto_begins_where_there_is_nothing_and_does_nothing_where_all_is_done(root: Path):
    run(root, "again", "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "again", "validation at the epoch's end")
    run(root, "again", "trainer.resume_from_checkpoint=auto")
    for part in ("state_dict", "optimizer_states", "global_step"):
        ours, other = (
            read_checkpoint(root / n / "models" / "last.ckpt") for n in ("again", "validation at the epoch's end")
        )
        assert_same(ours[part], other[part], part)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        half = len(content) // 2
        path.write_bytes(content[:half] + bytes(4096) + content[half + 4096 :])


@pytest.mark.parametrize("how", ["cut", "empty", "zeros"])
def test_a_damaged_last_checkpoint(root: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture):
    """`auto` takes the newest whole one and says so; a path that was asked for is an error that names it."""
    name = f"damaged {how}"
    run(root, name)
    models = root / name / "models"
    damage(models / "last.ckpt", how)
    whole = models / "epoch=1-step=8.ckpt"
    with pytest.raises(InputError, match=rf"last\.ckpt cannot be read .*; resume from {whole}") as error:
        run(root, name, f"trainer.resume_from_checkpoint={models / 'last.ckpt'}")
    assert "\n" not in str(error.value)
    whole.unlink()
    (models / "best.ckpt").unlink()
    write_checkpoint({"state_dict": {"a": torch.ones(1)}}, models / "weights.ckpt")
    with caplog.at_level(logging.WARNING):
        run(root, name, "trainer.resume_from_checkpoint=auto")
    assert f"resuming from {models / 'epoch=0-step=4.ckpt'} instead of" in caplog.text
    ours, other = (read_checkpoint(root / n / "models" / "last.ckpt") for n in (name, "validation at the epoch's end"))
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert_same(ours[part], other[part], part)


def wrong_files(whole: bytes) -> dict[str, bytes]:
    """What may lie where `last.ckpt` should, by name."""
    directory = bytearray(whole)
    directory[whole.rindex(b"PK\1\2") + 10] = 99  # the method of compression
    other, weights = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(1)}}, weights)
    run_like = {"state_dict": {"a": torch.ones(1)}, "optimizer_states": [], "global_step": 1, "epoch": 0}
    torch.save({**run_like, "callbacks": {}, "loops": {"fit_loop": 3}}, other)
    return {
        "nothing": b"",
        "cut": whole[:-1],
        "begun": whole[:10],
        "directory": bytes(directory),
        "zeros": bytes(len(whole)),
        "garbage": random.Random(0).randbytes(len(whole)),
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "pickle": pickle.dumps(["no checkpoint"]),
        "half a pickle": pickle.dumps({"state_dict": {"a": 1}})[:-5],
        "weights": weights.getvalue(),
        "another program's": other.getvalue(),
    }


def test_auto_takes_the_newest_sound_file_whatever_last_has_become(root: Path, tmp_path: Path, caplog):
    models = tmp_path / "run" / "models"
    shutil.copytree(root / "validation at the epoch's end" / "models", models)
    last, newest = models / "last.ckpt", models / "epoch=1-step=8.ckpt"
    (models / "gone.ckpt").symlink_to(tmp_path / "gone.ckpt")
    (models / "folder.ckpt").mkdir()
    assert resume_path("auto", models) == str(last)
    for name, content in wrong_files(last.read_bytes()).items():
        last.write_bytes(content)
        caplog.clear()
        assert resume_path("auto", models) == str(newest), name
        assert f"resuming from {newest} instead of {last}" in caplog.text
        with pytest.raises(InputError, match=rf"last\.ckpt.*; resume from {newest}") as error:
            resume_path(str(last), models)
        assert "\n" not in str(error.value), name


def test_auto_with_nothing_but_damaged_checkpoints(root: Path, tmp_path: Path):
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / "run" / "models" / "last.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be resumed; remove them to begin anew"):
        train(compose_run(root, "trainer.resume_from_checkpoint=auto"), tmp_path / "run")


def test_half_written_checkpoints_of_killed_runs_are_removed(root: Path):
    models = root / "parts" / "models"
    models.mkdir(parents=True)
    (models / "last.ckpt.part").write_bytes(b"half")
    run(root, "parts")
    assert not list(models.glob(".*"))


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits the size of files")
def test_a_disk_that_is_full(root: Path):
    """The system refuses to write more than half of a checkpoint: the old one stays, and the error says all."""
    import resource

    run(root, "full", "trainer.kwargs.max_epochs=1")
    models = root / "full" / "models"
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.ckpt"]) // 2, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            run(root, "full", "trainer.resume_from_checkpoint=auto")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert message.startswith(f"checkpoint {models / 'last.ckpt'} cannot be written: file too large; ")
    assert message.endswith(f"the run can go on from {models / 'last.ckpt'}")
    assert "\n" not in message
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before
    run(root, "full", "trainer.resume_from_checkpoint=auto")
    assert_same_run(root, "full", "validation at the epoch's end")


def test_a_run_that_is_over_stays_as_it_is_and_says_so(root: Path, caplog: pytest.LogCaptureFixture):
    run(root, "over")
    assert "nothing is left" not in caplog.text
    last = root / "over" / "models" / "last.ckpt"
    before = last.read_bytes()
    run(root, "over", "trainer.resume_from_checkpoint=auto")
    assert last.read_bytes() == before
    assert re.search(r"resuming: (\d+) of trainer\.kwargs\.max_epochs=\1 are done, nothing is left", caplog.text)


def test_a_validation_that_gives_no_best_is_not_repeated_either(root: Path, monkeypatch: pytest.MonkeyPatch):
    """With `save_top_k=0` no validation gives one."""
    keep_none = "trainer.checkpoint_kwargs.save_top_k=0"
    checkpoint = run(root, "none kept", keep_none)
    assert not checkpoint["position"]["step_ends"]

    def validate(self: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was done before")

    monkeypatch.setattr(InpaintingModule, "validation_step", validate)
    run(root, "none kept", keep_none, "trainer.resume_from_checkpoint=auto")
