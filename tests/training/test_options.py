"""The options of `training_model` inside a run: averaging, fine-tuning, crops, noise, weighed masks."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from saicinpainting.config import read_experiment_config
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.losses.distance_weighting import BlurredMask
from saicinpainting.losses.feature_matching import feature_matching_loss, masked_l1_loss
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint
from saicinpainting.training.run import train
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, golden_config
from tests.helpers import rand, run_script, write_data
from tests.runs import compose_run

AVERAGE = ("generator_avg_beta=0.9", "average_generator_start_step=3", "average_generator_period=2")
AVERAGING = ["+training_model.average_generator=true", *(f"+training_model.{setting}" for setting in AVERAGE)]


def model_of(options: dict[str, Any], **generator: Any) -> Any:
    config = golden_config()
    config["training_model"] |= options
    config["generator"] = {**config["generator"], **generator}
    torch.manual_seed(0)
    return make_training_model(config)


def fit(model: pl.LightningModule, steps: int, *callbacks: pl.Callback) -> None:
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))


class Weights(pl.Callback):
    """The generator's weights after every step."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.states[trainer.global_step] = copy.deepcopy(pl_module.generator.state_dict())


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run of two epochs of four steps, averaged after steps 3, 5 and 7; the experiment is in `run`."""
    root = tmp_path_factory.mktemp("averaged")
    write_data(root / "data")
    train(compose_run(root, *AVERAGING, "trainer.kwargs.max_epochs=2"), root / "run")
    return root


# ---- averaging ----------------------------------------------------------------------------------------------------


def test_the_average_of_a_training_is_that_of_its_weights_and_does_not_change_them():
    options = {"average_generator": True, "generator_avg_beta": 0.8}
    model = model_of({**options, "average_generator_start_step": 2, "average_generator_period": 3})
    recorder = Weights()
    fit(model, 9, recorder)
    w = recorder.states
    for name, average in model.generator_average.network.state_dict().items():
        if average.is_floating_point():
            torch.testing.assert_close(average, 0.64 * w[2][name] + 0.16 * w[5][name] + 0.2 * w[8][name])
    plain = model_of({})
    fit(plain, 9)
    for name, tensor in plain.generator.state_dict().items():
        torch.testing.assert_close(model.generator.state_dict()[name], tensor, rtol=0, atol=0)


def test_validation_sees_the_average_and_training_does_not():
    model = model_of({"average_generator": True, "average_generator_start_step": 1, "average_generator_period": 5})
    batch = {"image": rand(1, 1, 3, 64, 64), "mask": (rand(2, 1, 1, 64, 64) > 0.5).float()}
    masked = torch.cat([batch["image"] * (1 - batch["mask"]), batch["mask"]], dim=1)
    model.eval()
    torch.testing.assert_close(model(batch)["predicted_image"], model.generator(masked), rtol=0, atol=0)  # none yet
    fit(model.train(), 3)
    model.eval()
    predicted = model(batch)["predicted_image"]
    torch.testing.assert_close(predicted, model.generator_average.network(masked), rtol=0, atol=0)
    assert not torch.equal(predicted, model.generator(masked))
    model.train()
    predicted = model(batch)["predicted_image"]
    assert torch.equal(predicted, model.generator(masked))  # batch statistics: both from the same batch


def test_checkpoints_hold_the_average_and_prediction_takes_it(averaged: Path):
    state = read_checkpoint(averaged / "run" / "models" / "best.ckpt")["state_dict"]
    config = read_experiment_config(averaged / "run")
    config.training_model.predict_only = True
    model = load_checkpoint(config, averaged / "run" / "models" / "best.ckpt", strict=True)
    names = {name.split(".")[0] for name in state}
    assert names == {"generator", "discriminator", "generator_average"}
    for name, tensor in model.generator.state_dict().items():
        assert torch.equal(tensor, state[f"generator_average.{name}"])


def test_a_small_checkpoint_keeps_the_average_as_its_generator(averaged: Path, tmp_path: Path):
    done = run_script("make_checkpoint.py", str(averaged / "run"), "small", "--epochs", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    small = read_checkpoint(tmp_path / "small" / "models" / "best.ckpt")["state_dict"]
    state = read_checkpoint(averaged / "run" / "models" / "last.ckpt")["state_dict"]
    assert small.keys() == {name for name in state if name.startswith("generator.")}
    for name, tensor in small.items():
        assert torch.equal(tensor, state[name.replace("generator.", "generator_average.")])


@pytest.mark.parametrize("start", [3, 5])
def test_a_resumed_run_averages_as_an_undisturbed_one(averaged: Path, tmp_path: Path, start: int):
    """Resumed after step 4: with an average from step 3, or before there is one."""
    settings = [setting.replace("start_step=3", f"start_step={start}") for setting in AVERAGING]
    train(compose_run(averaged, *settings, "trainer.kwargs.max_epochs=2"), tmp_path / "straight")
    train(compose_run(averaged, *settings), tmp_path / "first")
    last = tmp_path / "first" / "models" / "last.ckpt"
    resume = ["trainer.kwargs.max_epochs=2", f"trainer.resume_from_checkpoint={last}"]
    train(compose_run(averaged, *settings, *resume), tmp_path / "second")
    straight, resumed = (read_checkpoint(tmp_path / n / "models" / "last.ckpt") for n in ("straight", "second"))
    assert resumed["state_dict"].keys() == straight["state_dict"].keys()
    assert any(name.startswith("generator_average.") for name in resumed["state_dict"])
    for name, tensor in straight["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], tensor, rtol=0, atol=0)


def test_a_run_can_go_on_without_averaging(averaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    last = averaged / "run" / "models" / "last.ckpt"
    resume = ["trainer.kwargs.max_epochs=3", f"trainer.resume_from_checkpoint={last}"]
    train(compose_run(averaged, *resume), tmp_path / "run")
    assert "leaves out; set training_model.average_generator=true" in caplog.text
    state = read_checkpoint(tmp_path / "run" / "models" / "last.ckpt")["state_dict"]
    assert not any(name.startswith("generator_average.") for name in state)


# ---- fine-tuning --------------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_another(averaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With a learning rate of 0 its parameters stay what they were at the start."""
    caplog.set_level(logging.INFO)
    still = ["optimizers.generator.lr=0", "optimizers.discriminator.lr=0"]
    train(compose_run(averaged, *still, f"trainer.finetune_from={averaged / 'run'}"), tmp_path / "run")
    source = read_checkpoint(averaged / "run" / "models" / "best.ckpt")["state_dict"]
    tuned = read_checkpoint(tmp_path / "run" / "models" / "last.ckpt")
    parameters = [name for name in tuned["state_dict"] if name.endswith((".weight", ".bias"))]
    assert {name.split(".")[0] for name in parameters} == {"generator", "discriminator"}
    for name in parameters:
        average = name.replace("generator.", "generator_average.")
        torch.testing.assert_close(tuned["state_dict"][name], source.get(average, source[name]), rtol=0, atol=0)
    assert (tuned["epoch"], tuned["global_step"]) == (0, 4)
    assert f"fine-tuning from {averaged / 'run' / 'models' / 'best.ckpt'}" in caplog.text
    assert "steps: 4 an epoch, 4 in all" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.finetune_from=nowhere"], r"trainer\.finetune_from: no best\.ckpt.* in nowhere/models or nowhere"),
        (["trainer.finetune_from={run}", "generator.n_blocks=2"], r"n_blocks=1 \(config: 2\)"),
        (
            ["trainer.finetune_from={run}", "trainer.resume_from_checkpoint={run}/models/last.ckpt"],
            "are both set",
        ),
    ],
)
def test_a_start_that_is_impossible_is_found_before_training(averaged: Path, tmp_path: Path, overrides, message):
    overrides = [override.format(run=averaged / "run") for override in overrides]
    with pytest.raises(InputError, match=message):
        train(compose_run(averaged, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- batches ------------------------------------------------------------------------------------------------------


class Inputs(pl.Callback):
    """What the generator gets: two inputs a step, its own and the one of the discriminator's step."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.inputs: list[torch.Tensor] = []
        pl_module.generator.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].detach().clone()))


def inputs_of(options: dict[str, Any], **generator: Any) -> list[torch.Tensor]:
    recorder = Inputs()
    fit(model_of(options, **generator), 4, recorder)
    assert len(recorder.inputs) == 8
    return recorder.inputs


def test_both_steps_of_a_batch_see_the_same_crop():
    inputs = inputs_of({"const_area_crop_kwargs": {"min_size": 32, "max_size": 64, "area": 2048}})
    assert {x.shape[2] * x.shape[3] for x in inputs} <= {2048, 48 * 48}
    assert len({x.shape for x in inputs}) > 1
    for first, second in zip(inputs[::2], inputs[1::2], strict=True):
        assert torch.equal(first, second)
    again = inputs_of({"const_area_crop_kwargs": {"min_size": 32, "max_size": 64, "area": 2048}})
    assert all(torch.equal(first, second) for first, second in zip(inputs, again, strict=True))


def test_the_size_follows_the_schedule():
    inputs = inputs_of({"rescale_scheduler_kwargs": {"start_iters": [1, 3], "values": [32, 48, 64]}})
    assert [x.shape[2] for x in inputs[::2]] == [32, 48, 48, 64]


def test_noise_is_new_in_every_forward_of_training_and_repeats_in_validation():
    inputs = inputs_of({"add_noise_kwargs": {"scales": 2}}, input_nc=6)
    noises = [x[:, 3:5] for x in inputs]
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])
    assert torch.equal(inputs[0][:, :3], inputs[1][:, :3])
    model = model_of({"add_noise_kwargs": {"scales": 2}}, input_nc=6).eval()
    batch = {"image": rand(1, 1, 3, 64, 64), "mask": (rand(2, 1, 1, 64, 64) > 0.5).float()}
    assert torch.equal(model(batch)["predicted_image"], model(batch)["predicted_image"])


def test_noise_needs_channels_of_the_generator():
    with pytest.raises(InputError, match=r"generator\.input_nc=4: .*2 noise channels the input has 6"):
        model_of({"add_noise_kwargs": {"scales": 2}})


@pytest.mark.parametrize("for_discriminator", [False, True])
def test_weighed_masks_enter_the_losses_of_training_alone(for_discriminator: bool):
    options = {"distance_weighter_kwargs": {"kind": "blur"}}
    model = model_of({**options, "distance_weighted_mask_for_discr": for_discriminator})
    plain = model_of({})
    batch = {"image": rand(1, 2, 3, 64, 64), "mask": (rand(2, 2, 1, 8, 8) > 0.5).float().repeat_interleave(8, 2)}
    batch["mask"] = batch["mask"].repeat_interleave(8, 3)
    batch |= {"predicted_image": rand(3, 2, 3, 64, 64)}
    weighed = BlurredMask()(batch["mask"])
    _, logs = model.generator_loss(batch)
    _, expected = plain.generator_loss(batch)
    expected_l1 = masked_l1_loss(batch["predicted_image"], batch["image"], weighed, 10, 0)
    torch.testing.assert_close(logs["gen_l1"], expected_l1)
    assert logs["gen_l1"] > expected["gen_l1"]
    _, adversarial = plain.generator_loss({**batch, "mask": weighed if for_discriminator else batch["mask"]})
    torch.testing.assert_close(logs["gen_adv"], adversarial["gen_adv"])
    _, evaluated = model.eval().generator_loss(batch)
    _, expected = plain.eval().generator_loss(batch)
    torch.testing.assert_close(evaluated["gen_l1"], expected["gen_l1"], rtol=0, atol=0)


def test_feature_matching_with_a_mask_gets_the_weighed_one():
    config = golden_config()
    config["losses"]["feature_matching"] = {"weight": 100, "pass_mask": True}
    config["training_model"]["distance_weighter_kwargs"] = {"kind": "blur", "kernel_size": 9}
    torch.manual_seed(0)
    model = make_training_model(config)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1
    batch = {"image": rand(1, 2, 3, 64, 64), "mask": mask, "predicted_image": rand(3, 2, 3, 64, 64)}
    _, logs = model.generator_loss(batch)
    _, real = model.discriminator(batch["image"])
    _, fake = model.discriminator(batch["predicted_image"])
    expected = 100 * feature_matching_loss(fake, real, mask=BlurredMask(kernel_size=9)(mask))
    torch.testing.assert_close(logs["gen_fm"], expected)
    assert not torch.equal(logs["gen_fm"], 100 * feature_matching_loss(fake, real, mask=mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fake_fakes_proba": 0.2}, "is not supported"),
        ({"average_generatr": True}, r"training_model\.average_generatr: unknown config key.*average_generator"),
        ({"visualize_each_iters": 0}, r"visualize_each_iters: expected 1 or more, got 0; visualizer\.kind=noop draws"),
        ({"average_generator": True, "average_generator_period": 0}, "average_generator_period: expected 1 or more"),
    ],
)
def test_impossible_options_are_named(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        model_of(options)
