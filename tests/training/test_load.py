"""Checkpoints of other times and other networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saicinpainting.io.checkpoint import write_checkpoint
from saicinpainting.networks import make_generator
from saicinpainting.networks.load import check_fit
from saicinpainting.networks.recognition import generator_settings
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint
from saicinpainting.utils import InputError
from tests.golden_steps import golden_config
from tests.helpers import fill, golden_keys, golden_values, rand
from tests.runs import lightning_1_checkpoint


@pytest.fixture
def generator_state() -> dict[str, torch.Tensor]:
    model = make_training_model(golden_config())
    fill(model.generator)
    return {f"generator.{name}": tensor for name, tensor in model.generator.state_dict().items()}


def published(generator_state: dict[str, torch.Tensor]) -> dict:
    """Generator, evaluators and losses, as the published files have them; no discriminator."""
    extra = {
        "val_evaluator.scores.lpips.lin0.weight": torch.ones(1),
        "test_evaluator.scores.fid.block.weight": torch.ones(1),
        "loss_resnet_pl.impl.conv1.weight": torch.ones(1),
        "loss_pl.vgg.34.weight": torch.ones(1),
    }
    return lightning_1_checkpoint({**generator_state, **extra})


def test_a_published_checkpoint_predicts_through_the_downstream_calls(tmp_path: Path, generator_state):
    torch.save(published(generator_state), tmp_path / "best.ckpt")
    config = golden_config()
    config["training_model"]["predict_only"] = True
    model = load_checkpoint(config, tmp_path / "best.ckpt", strict=False, map_location="cpu")
    model.freeze()
    batch = {"image": rand(1, 1, 3, 64, 64), "mask": (rand(2, 1, 1, 64, 64) > 0.5).float()}
    batch = model(batch)

    reference = fill(make_training_model(golden_config()).generator).eval()
    masked = torch.cat([batch["image"] * (1 - batch["mask"]), batch["mask"]], dim=1)
    expected = torch.where(batch["mask"] > 0, reference(masked), batch["image"])
    torch.testing.assert_close(batch["inpainted"], expected, atol=1e-6, rtol=0)


def test_a_full_module_from_a_generator_alone(tmp_path: Path, generator_state, caplog: pytest.LogCaptureFixture):
    torch.save(published(generator_state), tmp_path / "best.ckpt")
    model = load_checkpoint(golden_config(), tmp_path / "best.ckpt", strict=False)
    assert "has no weights of: discriminator" in caplog.text
    for name, tensor in generator_state.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_strict_demands_everything(tmp_path: Path, generator_state):
    torch.save(published(generator_state), tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=r"does not fit its config: 32 weights missing.*discriminator"):
        load_checkpoint(golden_config(), tmp_path / "best.ckpt", strict=True)


def test_safetensors_are_read(tmp_path: Path, generator_state):
    write_checkpoint({"state_dict": generator_state}, tmp_path / "best.safetensors")
    config = golden_config()
    config["training_model"]["predict_only"] = True
    model = load_checkpoint(config, tmp_path / "best.safetensors")
    assert model.state_dict().keys() == generator_state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_blocks": 2}, "weights missing"),
        ({"n_blocks": 0}, "too many"),
        ({"ngf": 16}, r"of another shape.*in the file"),
    ],
)
def test_a_config_of_another_network_is_an_error_that_says_so(tmp_path: Path, generator_state, change, message):
    write_checkpoint({"state_dict": generator_state}, tmp_path / "best.ckpt")
    config = golden_config()
    config["generator"] = {**config["generator"], **change}
    config["training_model"]["predict_only"] = True
    with pytest.raises(InputError, match=message):
        load_checkpoint(config, tmp_path / "best.ckpt", strict=False)


def published_shapes(name: str) -> dict[str, torch.Tensor]:
    """The names and shapes of a published generator, without the memory."""
    shapes = golden_keys()[f"{name} generator"]
    return {f"generator.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "kind", "n_blocks"),
    [
        ("lama-fourier", "ffc_resnet", 9),
        ("big-lama", "ffc_resnet", 18),
        ("lama-regular", "pix2pixhd_global", 9),
        ("big-lama-regular", "pix2pixhd_global", 15),
        ("ablv2_work_md", "pix2pixhd_multidilated", 9),
    ],
)
def test_a_published_network_is_recognised_by_its_weights(name: str, kind: str, n_blocks: int):
    expected = {"kind": kind, "n_blocks": n_blocks, "n_downsampling": 3, "ngf": 64, "input_nc": 4}
    assert generator_settings(published_shapes(name)) == expected


def test_a_residual_block_at_full_resolution_is_not_counted():
    settings = {**golden_values()["ffc"], "n_blocks": 3, "out_ffc": True}
    ratios = {"ratio_gin": 0.5, "ratio_gout": 0.5, "enable_lfu": False}
    state = make_generator(**{**settings, "out_ffc_kwargs": ratios}).state_dict()
    assert generator_settings({f"generator.{name}": t for name, t in state.items()})["n_blocks"] == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("big-lama", r"n_blocks=18 \(config: 9\); set generator\.n_blocks=18, or take the config big-lama$"),
        ("lama-regular", r"kind=pix2pixhd_global \(config: ffc_resnet\).*or take the config lama-regular$"),
    ],
)
def test_the_config_that_fits_a_published_file_is_named(name: str, message: str):
    model = torch.nn.Module()
    with torch.device("meta"):
        model.generator = make_generator(**{**golden_values()["ffc"], "ngf": 64, "n_blocks": 9})
    check_fit(model, published_shapes("lama-fourier"), "best.ckpt", prefix="generator.")
    with pytest.raises(InputError, match=message):
        check_fit(model, published_shapes(name), "best.ckpt", prefix="generator.")


def test_prediction_takes_the_averaged_weights(tmp_path: Path, generator_state):
    average = {name.replace("generator.", "generator_average."): tensor + 1 for name, tensor in generator_state.items()}
    write_checkpoint({"state_dict": {**generator_state, **average}}, tmp_path / "best.ckpt")
    config = golden_config()
    config["training_model"]["predict_only"] = True
    for strict in (True, False):
        model = load_checkpoint(config, tmp_path / "best.ckpt", strict=strict)
        assert model.state_dict().keys() == generator_state.keys()
        for name, tensor in generator_state.items():
            torch.testing.assert_close(model.state_dict()[name], tensor + 1, rtol=0, atol=0)
