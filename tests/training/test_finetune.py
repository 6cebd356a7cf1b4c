"""Starting from the weights of other runs, published and our own."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.networks.load import load_model
from saicinpainting.networks.models import INSIDE
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.finetune import finetune_path, start_from
from saicinpainting.utils import InputError
from tests.golden_steps import golden_config
from tests.helpers import assert_same, fill, run_script, shrunk, write_data, write_run
from tests.runs import lightning_1_checkpoint

State = dict[str, torch.Tensor]


def model_of(config: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(5)
    return make_training_model(config or golden_config())


@pytest.fixture
def weights() -> State:
    """Of both networks, named as a checkpoint has them; none equals a freshly initialised one."""
    model = make_training_model(golden_config())
    fill(model.generator)
    fill(model.discriminator)
    return {name: t for name, t in model.state_dict().items() if name.startswith(("generator.", "discriminator."))}


@pytest.fixture(autouse=True)
def whole_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def part(state: State, prefix: str, new_prefix: str = "") -> State:
    return {new_prefix + name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def assert_holds(module: torch.nn.Module, expected: State) -> None:
    state = module.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_a_published_generator_is_taken_and_the_discriminator_starts_anew(tmp_path: Path, weights: State, caplog):
    frozen = {f"{name}.conv1.weight": torch.ones(1) for name in ("loss_resnet_pl", "loss_segm_pl", "val_evaluator")}
    state = {**part(weights, "generator.", "generator."), **frozen}
    torch.save(lightning_1_checkpoint(state), tmp_path / "best.ckpt")
    model = model_of()
    start_from(model, tmp_path / "best.ckpt")
    assert_holds(model.generator, part(weights, "generator."))
    assert_holds(model.discriminator, model_of().discriminator.state_dict())
    assert f"fine-tuning from {tmp_path / 'best.ckpt'} (epoch 39, global_step 999999)" in caplog.text
    assert "taken: generator\n" in caplog.text
    assert "left out: loss_resnet_pl, loss_segm_pl, val_evaluator, optimizers, epoch and step" in caplog.text
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "discriminator: starts from random weights (the file has none)" in warning.getMessage()
    assert "optimizers.generator.lr" in warning.getMessage()


def test_nothing_is_said_of_a_discriminator_that_is_not_trained(tmp_path: Path, weights: State, caplog):
    torch.save({"state_dict": part(weights, "generator.", "generator.")}, tmp_path / "best.ckpt")
    config = golden_config()
    config["losses"]["adversarial"]["weight"] = 0
    with caplog.at_level(logging.WARNING):
        start_from(model_of(config), tmp_path / "best.ckpt")
    assert caplog.text == ""


def test_a_whole_run_gives_both_networks(tmp_path: Path, weights: State, caplog):
    write_checkpoint({"state_dict": weights, "epoch": 3, "optimizer_states": [{}]}, tmp_path / "last.ckpt")
    model = model_of()
    start_from(model, tmp_path / "last.ckpt")
    assert_holds(model.generator, part(weights, "generator."))
    assert_holds(model.discriminator, part(weights, "discriminator."))
    assert "taken: generator, discriminator" in caplog.text
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("name", ["generator.pth", "generator.ckpt", "generator.safetensors"])
@pytest.mark.parametrize("prefix", ["", "generator."])
def test_a_generator_alone_is_taken_under_either_naming(tmp_path: Path, weights: State, name: str, prefix: str):
    state = part(weights, "generator.", prefix)
    if name.endswith(".pth"):
        torch.save(state, tmp_path / name)
    else:
        write_checkpoint({"state_dict": state}, tmp_path / name)
    model = model_of()
    start_from(model, tmp_path / name)
    assert_holds(model.generator, part(weights, "generator."))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda both, alone: {f"module.{name}": t for name, t in both.items()},
        lambda both, alone: {"state_dict": {f"_orig_mod.{name}": t for name, t in both.items()}},
        lambda both, alone: {re.sub(r"^(\w+)\.", r"\1._orig_mod.", name): t for name, t in both.items()},
        lambda both, alone: {f"module.{name}": t for name, t in alone.items()},
        lambda both, alone: {"model": both},
        lambda both, alone: {"model": {name: t + 1 for name, t in alone.items()}, "ema": alone},
    ],
)
def test_networks_are_taken_out_of_what_wraps_them(tmp_path: Path, weights: State, wrapped: Any) -> None:
    alone = part(weights, "generator.")
    saved = wrapped(weights, alone)
    torch.save(saved, tmp_path / "weights.pth")
    model = model_of()
    start_from(model, tmp_path / "weights.pth")
    assert_holds(model.generator, alone)
    if any("discriminator" in name for name in read_checkpoint(tmp_path / "weights.pth")["state_dict"]):
        assert_holds(model.discriminator, part(weights, "discriminator."))


def test_an_export_is_no_start(tmp_path: Path, weights: State) -> None:
    kernels = {name: t for name, t in part(weights, "generator.").items() if "running_" not in name}
    torch.save(kernels, tmp_path / "exported.pth")
    with pytest.raises(InputError, match=r"batch norms are in the kernels.*take the checkpoint"):
        start_from(model_of(), tmp_path / "exported.pth")


def test_the_average_is_preferred_to_the_weights_of_the_last_step(tmp_path: Path, weights: State, caplog):
    average = {name: tensor + 1 for name, tensor in part(weights, "generator.").items()}
    state = {**weights, **{f"generator_average.{name}": tensor for name, tensor in average.items()}}
    write_checkpoint({"state_dict": state}, tmp_path / "last.ckpt")
    model = model_of()
    start_from(model, tmp_path / "last.ckpt")
    assert_holds(model.generator, average)
    assert "taken: generator (the average of its weights), discriminator" in caplog.text
    assert "left out" not in caplog.text


def test_half_precision_weights_come_back_in_full(tmp_path: Path, weights: State):
    state = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    write_checkpoint({"state_dict": state}, tmp_path / "best.safetensors")
    model = model_of()
    start_from(model, tmp_path / "best.safetensors")
    weight = model.generator.model[1].ffc.convl2l.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, weights["generator.model.1.ffc.convl2l.weight"], rtol=1e-3, atol=1e-4)


def test_another_discriminator_is_left_out_with_the_reason(tmp_path: Path, weights: State, caplog):
    config = golden_config()
    config["discriminator"] = {**config["discriminator"], "ndf": 2 * config["discriminator"]["ndf"]}
    write_checkpoint({"state_dict": weights}, tmp_path / "last.ckpt")
    model = model_of(config)
    start_from(model, tmp_path / "last.ckpt")
    assert_holds(model.discriminator, model_of(config).discriminator.state_dict())
    assert_holds(model.generator, part(weights, "generator."))
    assert "starts from random weights (0 weights missing" in caplog.text
    assert "model0.0.bias is (8,) in the file, (16,) in the config" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_blocks": 3}, r"n_blocks=1 \(config: 3\); set generator\.n_blocks=1"),
        ({"ngf": 16}, r"ngf=8 \(config: 16\); set generator\.ngf=8"),
        ({"n_downsampling": 2}, r"n_downsampling=3 \(config: 2\); set generator\.n_downsampling=3"),
        ({"input_nc": 10}, r"input_nc=4 \(config: 10\)"),
    ],
)
def test_another_generator_is_an_error_that_says_what_to_set(tmp_path: Path, weights: State, change: dict, message):
    write_checkpoint({"state_dict": weights}, tmp_path / "best.ckpt")
    config = golden_config()
    config["generator"] = {**config["generator"], **change}
    if "input_nc" in change:  # six channels of noise besides image and mask
        config["training_model"]["add_noise_kwargs"] = {"scales": 6}
    model = model_of(config)
    with pytest.raises(InputError, match=rf"the generator in .*best\.ckpt is not that of the config.*{message}"):
        start_from(model, tmp_path / "best.ckpt")
    assert_holds(model.generator, model_of(config).generator.state_dict())  # nothing was filled in part


def test_a_checkpoint_of_a_run_is_read_alone(tmp_path: Path):
    config = golden_config()
    config["generator"] |= {"add_out_act": "tanh", "initial_fill": "pyramid"}
    model = model_of(config)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), "loops": {}}
    model.on_save_checkpoint(checkpoint)
    write_checkpoint(checkpoint, tmp_path / "last.ckpt")
    x = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        found = load_model(tmp_path / "last.ckpt").generator.eval()(x)
        torch.testing.assert_close(found, model.generator.eval()(x), rtol=0, atol=0)


def test_weights_of_lama_small_name_its_config(tmp_path: Path):
    # ngf, n_blocks and n_downsampling alone would leave the initial fill out, which no weight shows.
    with pytest.raises(InputError, match=r"is lama-small's; take the config lama-small$"):
        start_from(model_of(), INSIDE / "lama-small" / "models" / "best.safetensors")


def test_a_model_is_meant_by_its_name_beside_a_folder_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lama-small" / "random_thin_256").mkdir(parents=True)
    shipped = INSIDE / "lama-small" / "models" / "best.safetensors"
    assert finetune_path("lama-small", resume_from=None, resuming=False) == shipped
    (tmp_path / "lama-small" / "last.ckpt").touch()
    assert finetune_path("lama-small", resume_from=None, resuming=False) == Path("lama-small/last.ckpt")


def test_a_file_without_a_generator_is_named(tmp_path: Path, weights: State):
    write_checkpoint({"state_dict": part(weights, "discriminator.", "discriminator.")}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt holds no generator.*it has those of: discriminator"):
        start_from(model_of(), tmp_path / "a.ckpt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, weights: State):
    weights["generator.model.1.ffc.convl2l.weight"][0, 0, 0, 0] = float("nan")
    write_checkpoint({"state_dict": weights}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"not finite in 1 weights, the first generator\.model\.1\.ffc"):
        start_from(model_of(), tmp_path / "last.ckpt")


# ---- trainer.finetune_from ----------------------------------------------------------------------------------------


def test_a_folder_means_its_best_checkpoint(tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    with pytest.raises(InputError, match=r"no best\.ckpt, best\.safetensors, last\.ckpt in .*models"):
        finetune_path(str(tmp_path), resume_from=None, resuming=False)
    for name in ("last.ckpt", "best.safetensors", "best.ckpt"):
        (models / name).touch()
        assert finetune_path(str(tmp_path), resume_from=None, resuming=False) == models / name
    assert finetune_path(str(models), resume_from=None, resuming=False) == models / "best.ckpt"
    assert finetune_path(str(models / "last.ckpt"), resume_from=None, resuming=False) == models / "last.ckpt"


def test_a_zip_of_a_run_means_the_checkpoint_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    run = write_run(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "published"), "zip", tmp_path, "run")
    found = finetune_path(archive, resume_from=None, resuming=False)
    assert found is not None
    assert found.read_bytes() == (run / "models" / "best.ckpt").read_bytes()


def test_nothing_asked_for_is_none():
    assert finetune_path(None, resume_from="auto", resuming=False) is None


def test_a_path_that_does_not_exist_is_named():
    with pytest.raises(
        InputError, match=r"trainer\.finetune_from: no best\.ckpt.* in nowhere/models or nowhere; expected"
    ):
        finetune_path("nowhere", resume_from=None, resuming=False)


def test_fine_tuning_and_resuming_at_once_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"finetune_from=.* and trainer\.resume_from_checkpoint=a\.ckpt are both set"):
        finetune_path(str(tmp_path), resume_from="a.ckpt", resuming=True)


def test_a_restarted_run_goes_on_with_its_own_weights(tmp_path: Path, caplog):
    """`auto`: the first start takes the file, later ones their own last.ckpt, even if the file is gone by then."""
    (tmp_path / "best.ckpt").touch()
    path = str(tmp_path / "best.ckpt")
    assert finetune_path(path, resume_from="auto", resuming=False) == tmp_path / "best.ckpt"
    (tmp_path / "best.ckpt").unlink()
    assert finetune_path(path, resume_from="auto", resuming=True) is None
    assert "it goes on with its own weights" in caplog.text


@pytest.mark.slow
def test_a_fine_tuned_generator_keeps_the_statistics_it_came_with(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    run = write_run(tmp_path)
    options = [f"hydra.run.dir={tmp_path / 'tuned'}", f"trainer.finetune_from={run / 'models' / 'best.ckpt'}"]
    options += ["+training_model.frozen_batch_norm=true", "data.val=null"]
    done = run_script("train.py", "-cn", "lama-fourier", *shrunk(tmp_path, *options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    old = read_checkpoint(run / "models" / "best.ckpt")["state_dict"]
    new = read_checkpoint(tmp_path / "tuned" / "models" / "last.ckpt")["state_dict"]
    statistics = [name for name in old if name.startswith("generator.") and "running_" in name]
    assert len(statistics) > 10
    assert_same({name: new[name] for name in statistics}, {name: old[name] for name in statistics})
    learned = [name for name in old if name.endswith("bn_l.weight")]
    assert learned
    assert not any(torch.equal(old[name], new[name]) for name in learned)
