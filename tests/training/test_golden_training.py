"""Ten training steps of the official code, repeated by our module under Lightning's trainer, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader

from saicinpainting.networks.fourier import FourierUnit
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.run import make_trainer
from tests.golden_steps import PATHS, STEPS, GoldenBatches, Recorder, golden_config
from tests.helpers import fill, golden_arrays, golden_values, rand

TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "64-true", "max_epochs": 1, "enable_progress_bar": False}
CHECKPOINTS = {"monitor": None, "save_top_k": 0, "save_last": False}


# What runs unless told otherwise, and the plain ways of computing the same.


@pytest.fixture(scope="module", params=PATHS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pl.LightningModule, list[dict[str, float]], pl.Trainer]:
    folder = tmp_path_factory.mktemp("golden")
    config = golden_config()
    config["training_model"] |= PATHS[request.param]
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    recorder = Recorder()
    settings = {**golden_config(), "location": {"tb_dir": str(folder / "tb")}}
    settings["trainer"] = {
        "kwargs": {**TRAINER, **golden_config()["trainer"]["kwargs"]},
        "checkpoint_kwargs": CHECKPOINTS,
    }
    trainer = make_trainer(settings, folder / "run")
    trainer.callbacks.append(recorder)
    trainer.fit(model, DataLoader(GoldenBatches(), batch_size=None))
    return model, recorder.steps, trainer


def test_every_logged_value_equals_the_official_one(trained):
    _, steps, _ = trained
    assert len(steps) == STEPS
    names = {name: f"train_{name}" for name in golden_values()["training"][0]}
    names |= {n: f"train_adv_{n}" for n in ("discr_real_out", "discr_fake_out", "discr_real_gp")}
    for step, golden in zip(steps, golden_values()["training"], strict=True):
        for name, expected in golden.items():
            assert step[names[name]] == pytest.approx(expected, rel=1e-8), name


def test_trained_generator_equals_the_official_one(trained):
    model, _, _ = trained
    model.double().eval()
    with torch.no_grad():
        output = model.generator(rand(7, 1, 4, 64, 64).double())
    torch.testing.assert_close(output.float(), golden_arrays()["training.final.64x64"], atol=1e-6, rtol=0)


def test_the_default_is_matrix_products():
    model = make_training_model(golden_config())
    (unit, *_) = [module for module in model.generator.modules() if isinstance(module, FourierUnit)]
    assert unit.uses_products(torch.zeros(1, 1, 8, 8))  # maps of these batches
    assert unit.uses_products(torch.zeros(1, 1, 32, 32, dtype=torch.bfloat16))  # of a crop of 256 pixels


def test_a_global_step_is_a_batch(trained):
    _, _, trainer = trained
    assert trainer.global_step == STEPS


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_trains_close_to_full(tmp_path: Path, precision: str):
    """Loss scaling must not reach the clipped gradient: the logged norms are those of full precision."""
    model = make_training_model(golden_config())
    fill(model.generator)
    fill(model.discriminator)
    recorder = Recorder()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if precision == "16-mixed" else None
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision(precision, "cpu", scaler)],
        max_steps=2,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    for step, golden in zip(recorder.steps, golden_values()["training"], strict=False):
        for name in ("gen_l1", "gen_fm", "gen_grad_norm", "discr_adv", "discr_grad_norm"):
            assert step[f"train_{name}"] == pytest.approx(golden[name], rel=0.1), name


@pytest.mark.parametrize("cached", [True, False])
def test_the_fresh_forward_pass_uses_the_updated_weights_whatever_autocast_keeps(cached: bool):
    """Lightning 2.4 and 2.5 keep autocast's casts of the weights over the whole step."""

    class Precision(MixedPrecision):
        def autocast_context_manager(self) -> torch.autocast:
            return torch.autocast("cpu", torch.bfloat16, cache_enabled=cached)

    config = golden_config()
    config["optimizers"]["generator"]["lr"] = 0.1
    model, outputs = make_training_model(config), []
    fill(model.generator)
    model.generator.register_forward_hook(lambda _, inputs, output: outputs.append((inputs[0], output.detach())))
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=[Precision("bf16-mixed", "cpu")],
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    (x, before), (_, fresh) = outputs
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = model.generator.train()(x)
    assert torch.equal(fresh, expected)
    assert not torch.allclose(before, fresh, atol=0.01)
