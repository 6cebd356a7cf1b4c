"""A whole run in this process, on real configs shrunk and real files."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.config import read_experiment_config
from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.networks.batch_norm import BatchNorm2d
from saicinpainting.training.checkpoints import make_checkpoint_callback
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint
from saicinpainting.training.resume import resume_path
from saicinpainting.training.run import make_trainer, train, validate_every_epoch
from saicinpainting.training.strategy import NetworkwiseDDPStrategy
from saicinpainting.utils import InputError
from tests.golden_steps import golden_config
from tests.helpers import assert_same, write_data
from tests.runs import TinyFID, compose_run

CHECKPOINTS = {"checkpoint_kwargs": {"monitor": "val_ssim_total_mean"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of two epochs of lama-fourier, shrunk; the experiment is in `run`."""
    root = tmp_path_factory.mktemp("experiment")
    write_data(root / "data")
    log = logging.FileHandler(root / "log.txt")
    package = logging.getLogger("saicinpainting")
    level = package.level
    package.addHandler(log)
    package.setLevel(logging.INFO)
    train(compose_run(root, "trainer.kwargs.max_epochs=2"), root / "run")
    package.removeHandler(log)
    package.setLevel(level)
    return root


def test_a_run_without_a_validation_set_keeps_its_last_checkpoint(finished: Path, tmp_path: Path):
    words = ("data.val=null", "trainer.kwargs.num_sanity_val_steps=8", f"location.tb_dir={tmp_path / 'tb'}")
    train(compose_run(finished, *words), tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "models").iterdir()] == ["last.ckpt"]


def test_the_experiment_folder_has_its_official_layout(finished: Path):
    models = {path.name for path in (finished / "run" / "models").iterdir()}
    assert models == {"last.ckpt", "best.ckpt", "epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"}
    samples = {path.name for path in (finished / "run" / "samples").iterdir()}
    assert samples == {f"epoch000{i}_{title}" for i in (0, 1) for title in ("train", "val", "test")}
    assert (finished / "run" / "samples" / "epoch0001_test" / "batch0000001.jpg").stat().st_size > 1000


def test_tensorboard_has_the_official_names(finished: Path):
    (events,) = (finished / "tb" / "run").rglob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    names = set(board.Tags()["scalars"])
    losses = {"gen_l1", "gen_adv", "gen_fm"}
    scores = {"adv_discr_real_out", "adv_discr_fake_out", "adv_discr_real_gp", "discr_adv"}
    assert names >= {f"train_{name}" for name in losses | scores}
    assert names >= {f"{title}_{name}" for title in ("val", "test") for name in losses | {"ssim_total_mean"}}
    assert {"train/0", "val/0", "test/0", "test/1"} <= set(board.Tags()["images"])
    assert [scalar.step for scalar in board.Scalars("train_gen_l1")] == list(range(8))  # a step is a batch


def test_a_checkpoint_holds_networks_optimizers_and_counters(finished: Path):
    checkpoint = read_checkpoint(finished / "run" / "models" / "last.ckpt")
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"generator", "discriminator"}
    assert checkpoint["global_step"] == 8
    assert checkpoint["epoch"] == 1
    assert [len(state["state"]) > 0 for state in checkpoint["optimizer_states"]] == [True, True]
    torch.load(finished / "run" / "models" / "last.ckpt", weights_only=True)  # torch itself finds no foreign class


def test_best_is_the_best_epoch_in_full(finished: Path):
    models = finished / "run" / "models"
    last = read_checkpoint(models / "last.ckpt")
    (state,) = (value for name, value in last["callbacks"].items() if "Checkpoint" in name)
    best = Path(state["best_model_path"])
    assert (models / "best.ckpt").read_bytes() == best.read_bytes()
    assert state["best_model_score"] == max(state["best_k_models"].values())


def test_the_saved_config_builds_the_same_networks(finished: Path):
    config = read_experiment_config(finished / "run")
    assert "${" not in (finished / "run" / "config.yaml").read_text()
    model = load_checkpoint(config, finished / "run" / "models" / "last.ckpt", strict=True)
    state = read_checkpoint(finished / "run" / "models" / "last.ckpt")["state_dict"]
    assert model.state_dict().keys() == state.keys()


def test_the_same_seed_repeats_a_run(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(compose_run(finished, "trainer.kwargs.max_epochs=2", "location.tb_dir=logs"), tmp_path / "run")
    assert "logs of another run" not in caplog.text
    # From any folder the run's config finds its logs.
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").location.tb_dir == str(tmp_path / "logs")
    other = compose_run(finished, "trainer.kwargs.max_epochs=1", "trainer.seed=1", "location.tb_dir=logs")
    train(other, tmp_path / "other" / "run")
    assert f"{tmp_path / 'logs' / 'run'} has the logs of another run of this name" in caplog.text
    first, second = (read_checkpoint(root / "run" / "models" / "last.ckpt") for root in (finished, tmp_path))
    for name, tensor in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], tensor, rtol=0, atol=0)
    first, other = (r / "models" / "epoch=0-step=4.ckpt" for r in (finished / "run", tmp_path / "other" / "run"))
    weight = "generator.model.1.ffc.convl2l.weight"
    assert not torch.equal(read_checkpoint(first)["state_dict"][weight], read_checkpoint(other)["state_dict"][weight])


def test_resuming_continues_where_the_run_stopped(finished: Path, tmp_path: Path):
    """Two epochs, then one more, against the optimizer's own step count."""
    last = finished / "run" / "models" / "last.ckpt"
    config = compose_run(finished, "trainer.kwargs.max_epochs=3", f"trainer.resume_from_checkpoint={last}")
    train(config, tmp_path / "resumed")
    checkpoint = read_checkpoint(tmp_path / "resumed" / "models" / "last.ckpt")
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (2, 12)
    for optimizer in checkpoint["optimizer_states"]:
        assert {int(state["step"]) for state in optimizer["state"].values()} == {12}


@pytest.mark.parametrize("key", ["trainer.resume_from_checkpoint", "+trainer.kwargs.resume_from_checkpoint"])
def test_a_wrong_resume_path_stops_before_training(finished: Path, tmp_path: Path, key: str):
    with pytest.raises(InputError, match=r"nowhere\.ckpt does not exist"):
        train(compose_run(finished, f"{key}=nowhere.ckpt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_checkpoints_is_said_to_have_none(tmp_path: Path):
    with pytest.raises(InputError, match=rf"no models/last\.ckpt or last\.ckpt in the folder {tmp_path}"):
        resume_path(str(tmp_path), tmp_path)


@pytest.mark.parametrize("kind", ["weights", "other network"])
def test_a_checkpoint_that_cannot_be_resumed_is_found_beforehand(finished: Path, tmp_path: Path, kind: str):
    last = finished / "run" / "models" / "last.ckpt"
    if kind == "weights":
        write_checkpoint({"state_dict": read_checkpoint(last)["state_dict"]}, tmp_path / "best.ckpt")
        config = compose_run(finished, f"trainer.resume_from_checkpoint={tmp_path / 'best.ckpt'}")
        message = "lacks optimizer_states, loops, global_step, epoch"
    else:
        config = compose_run(finished, f"trainer.resume_from_checkpoint={last}", "generator.n_blocks=2")
        message = "does not fit its config"
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        ("val_ssim_totl_mean", "max", "is not computed by this config; .*did you mean 'val_ssim_total_mean'"),
        ("val_gen_resnet_pl", "min", "is not computed by this config; known: .*val_gen_l1"),
        ("val_ssim_total_mean", "min", r"worst checkpoints by val_ssim_total_mean; set .*mode=max"),
        ("val_ssim_total_mean", "best", r"checkpoint_kwargs\.mode: expected max or min, got 'best'"),
    ],
)
def test_a_useless_monitor_is_found_beforehand(finished: Path, tmp_path: Path, monitor: str, mode: str, message: str):
    keys = {"monitor": monitor, "mode": mode}
    overrides = [f"trainer.checkpoint_kwargs.{key}={value}" for key, value in keys.items()]
    with pytest.raises(InputError, match=message):
        train(compose_run(finished, "trainer.kwargs.num_sanity_val_steps=1", *overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "models").exists()


def test_fid_of_one_validation_image_is_no_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_data(tmp_path / "data", val_images=1, train_images=2)
    monkeypatch.setattr("saicinpainting.metrics.evaluator.make_metrics", lambda **_: {"fid": TinyFID()})
    words = ["evaluator=default_inpainted", "trainer.checkpoint_kwargs.monitor=val_ssim_fid100_f1_total_mean"]
    with pytest.raises(InputError, match=r"data\.val has one image, of which there is no FID; add images, or set"):
        train(compose_run(tmp_path, *words), tmp_path / "run")
    assert not (tmp_path / "run" / "models").exists()


def test_one_image_of_the_sanity_check_says_nothing_of_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_data(tmp_path / "data", val_images=2, train_images=2)
    monkeypatch.setattr("saicinpainting.metrics.evaluator.make_metrics", lambda **_: {"fid": TinyFID()})
    words = ["evaluator=default_inpainted", "trainer.checkpoint_kwargs.monitor=val_fid_total_mean"]
    words += ["trainer.checkpoint_kwargs.mode=min", "trainer.kwargs.num_sanity_val_steps=1", "data.val_batch_size=1"]
    train(compose_run(tmp_path, *words), tmp_path / "run")
    assert (tmp_path / "run" / "models" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("evaluator", "monitor", "instead"),
    [
        ("ssim_inpainted", "val_ssim_fid100_f1_total_mean", ("val_ssim_total_mean", "max")),
        ("null", "val_lpips_total_mean", ("val_gen_l1", "min")),
        ("ssim_inpainted", "val_ssim_total_mean", None),
    ],
)
def test_a_metric_that_is_switched_off_is_replaced_and_said_so(
    finished: Path, caplog: pytest.LogCaptureFixture, evaluator: str, monitor: str, instead: tuple[str, str] | None
):
    overrides = ["~evaluator"] if evaluator == "null" else [f"evaluator={evaluator}"]
    config = compose_run(finished, *overrides, f"trainer.checkpoint_kwargs.monitor={monitor}")
    callback = make_checkpoint_callback(OmegaConf.to_container(config, resolve=True), finished)
    assert (callback.monitor, callback.mode) == (instead or (monitor, "max"))
    assert (f"judged by {instead[0]} ({instead[1]})" if instead else "") in caplog.text
    assert bool(caplog.text) == bool(instead)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.kwargs.max_epoch=3", r"trainer\.kwargs\.max_epoch: unknown config key.*max_epochs"),
        ("+trainer.checkpoint_kwargs.save_topk=3", r"checkpoint_kwargs\.save_topk.*save_top_k"),
        ("+losses.gan.weight=3", r"losses\.gan: unknown config key"),
        ("+losses.feature_matching.mask=true", r"losses\.feature_matching\.mask"),
        ("+training_model.concat_masks=true", r"training_model\.concat_masks.*concat_mask"),
        ("+training_model.image_to_discriminator=image", "expected predicted_image or inpainted"),
        ("optimizers.generator.kind=sgd", r"optimizers\.generator\.kind: unknown kind 'sgd'"),
        ("+data.trian.indir=x", r"data\.trian.*train"),
        ("+lossess.l1.weight_known=1", r"lossess: unknown config key.*losses"),
        ("+trainer.kwargs.amp_backend=apex", "precision"),
        ("+trainer.kwargs.accumulate_grad_batches=0", r"accumulate_grad_batches: .*got 0"),
        ("+trainer.kwargs.logger=false", r"config group logger"),
        ("trainer.checkpoint_kwargs.monitor=null", "save_top_k=5 asks for the best ones; set save_top_k to -1"),
    ],
)
def test_a_wrong_key_is_named(finished: Path, tmp_path: Path, override: str, message: str):
    with pytest.raises(InputError, match=message):
        train(compose_run(finished, override), tmp_path / "run")


@pytest.mark.parametrize(
    ("kwargs", "interval"),
    [
        ({"val_check_interval": 25000}, 1.0),
        ({"val_check_interval": 3}, 3),
        ({"val_check_interval": 3, "limit_train_batches": 0.5}, 1.0),
        ({"val_check_interval": 25000, "check_val_every_n_epoch": None}, 25000),
    ],
)
def test_a_validation_interval_past_the_epoch_means_its_end(finished: Path, kwargs: dict, interval: float):
    settings = {
        "trainer": {"kwargs": {"accelerator": "cpu", "devices": 1, **kwargs}, **CHECKPOINTS},
        "evaluator": {"fid": False},
        "location": {"tb_dir": str(finished / "tb2")},
    }
    trainer = make_trainer(settings, finished / "unused")
    validate_every_epoch(trainer, 4)
    assert trainer.val_check_interval == interval


def test_a_foreign_picture_folder_is_not_made(finished: Path, tmp_path: Path):
    """Our own saved config, and a published one, train elsewhere without touching the first run's pictures."""
    before = sorted((finished / "run" / "samples").rglob("*"))
    config = read_experiment_config(finished / "run")
    config.trainer.kwargs.max_epochs = 1
    train(config, tmp_path / "again")
    assert (tmp_path / "again" / "samples" / "epoch0000_train").is_dir()
    assert sorted((finished / "run" / "samples").rglob("*")) == before
    config.visualizer.outdir = "/home/jane/experiments/big-lama/samples"
    train(config, tmp_path / "third")
    assert (tmp_path / "third" / "samples" / "epoch0000_train").is_dir()


def test_two_devices_train_with_ddp():
    settings = {
        "trainer": {"kwargs": {"accelerator": "cpu", "devices": 2}, **CHECKPOINTS},
        "evaluator": {"fid": False},
        "location": {"tb_dir": "unused"},
    }
    trainer = make_trainer(settings, Path("unused"))
    assert isinstance(trainer.strategy, pl.strategies.DDPStrategy)
    assert isinstance(trainer.strategy, NetworkwiseDDPStrategy)


def test_batch_norm_is_joined_over_gpus_in_the_generator_alone(tmp_path: Path):
    """The R1 penalty differentiates the discriminator twice, which SyncBatchNorm cannot."""
    settings = {
        "trainer": {"kwargs": {"accelerator": "cpu", "devices": 2, "sync_batchnorm": True}, **CHECKPOINTS},
        "evaluator": {"fid": False},
        "location": {"tb_dir": str(tmp_path)},
    }
    trainer = make_trainer(settings, tmp_path / "run")
    model = make_training_model(golden_config())

    def kinds(network: torch.nn.Module) -> set[type]:
        return {type(part) for part in network.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)}

    trainer.strategy._layer_sync.apply(model)
    assert (kinds(model.generator), kinds(model.discriminator)) == ({torch.nn.SyncBatchNorm}, {BatchNorm2d})
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.strategy._layer_sync.revert(model)  # Lightning does so at a run's end
    assert torch.nn.SyncBatchNorm not in kinds(model.generator)
    assert kinds(model.discriminator) == {BatchNorm2d}
    assert_same(model.state_dict(), state, "state")


def test_a_prediction_model_needs_neither_losses_nor_weights(finished: Path):
    config = read_experiment_config(finished / "run")
    config.losses.resnet_pl.weight = 30
    config.training_model.predict_only = True
    model = make_training_model(config)
    assert {name.split(".")[0] for name in model.state_dict()} == {"generator"}


def test_a_second_run_does_not_write_over_the_first(finished: Path):
    before = (finished / "run" / "models" / "last.ckpt").read_bytes()
    other = finished / "other"
    other.mkdir(exist_ok=True)
    shutil.copy(finished / "run" / "models" / "last.ckpt", other / "last.ckpt")
    for started_from in ((), (f"trainer.resume_from_checkpoint={other / 'last.ckpt'}",)):
        with pytest.raises(InputError, match=r"holds the checkpoints of a run.*resume_from_checkpoint=auto"):
            train(compose_run(finished, "trainer.kwargs.max_epochs=2", *started_from), finished / "run")
    assert (finished / "run" / "models" / "last.ckpt").read_bytes() == before


def test_what_a_run_says_at_its_start_is_what_it_leaves(finished: Path):
    log = (finished / "log.txt").read_text()
    assert "images: train 8, val 2, visual_test 2" in log
    assert "steps: 4 an epoch, 8 in all, every image 2.0 times" in log
    assert read_checkpoint(finished / "run" / "models" / "last.ckpt")["global_step"] == 8


def test_a_folder_stands_for_its_last_checkpoint(finished: Path):
    assert resume_path(str(finished / "run"), finished) == str(finished / "run" / "models" / "last.ckpt")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.seed=-1", r"trainer\.seed: expected a whole number"),
        ("trainer.kwargs.val_check_interval=0", r"trainer\.kwargs\.val_check_interval: expected steps"),
        ("trainer.kwargs.limit_train_batches=0", r"trainer\.kwargs\.limit_train_batches: 0 leaves no step"),
        ("trainer.kwargs.check_val_every_n_epoch=0", "n_epoch: expected a whole number of at least 1, got 0"),
        ("trainer.kwargs.gradient_clip_val=-1", "gradient_clip_val: expected 0 or more, or null, got -1"),
        ("trainer.kwargs.max_epochs=0", r"trainer\.kwargs\.max_epochs: 0 leaves no step"),
        ("+trainer.kwargs.max_steps=0", r"trainer\.kwargs\.max_steps: 0 leaves no step"),
        ("trainer.kwargs.precision=foo", r"trainer\.kwargs: Precision 'foo' is invalid"),
        (
            "trainer.kwargs.precision=bf16-true",
            r"precision=bf16-true: weights and losses are kept in float32; expected",
        ),
        ("+trainer.kwargs.max_time=00:01:00:00", r"trainer\.kwargs\.max_time cannot be set: a run ends cleanly on SIG"),
        ("trainer.checkpoint_kwargs.every_n_train_steps=-3", r"every_n_train_steps: expected 1 or more"),
        ("+trainer.checkpoint_kwargs.save_weights_only=true", "no run could go on from such a last.ckpt"),
        ("trainer.checkpoint_kwargs.monitor=null", r"monitor=null judges none the best, .* set save_top_k to -1"),
        ("trainer.checkpoint_kwargs.save_last=false", "set every_n_train_steps to null as well"),
    ],
)
def test_impossible_settings_of_a_run_are_named(finished: Path, override: str, message: str):
    with pytest.raises(InputError, match=message):
        train(compose_run(finished, override), finished / "impossible")


def test_a_seed_is_not_drawn(finished: Path):
    """Lightning's would be 0 each time, and processes that are started one by one could not share ours."""
    with pytest.raises(InputError, match=r"trainer\.seed: null draws none; .* trainer\.seed=\$RANDOM"):
        train(compose_run(finished, "trainer.seed=null"), finished / "drawn")
