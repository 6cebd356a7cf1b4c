"""A generator's config section from the names and shapes of its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from saicinpainting.io.checkpoint import write_checkpoint
from saicinpainting.networks import make_generator
from saicinpainting.networks.load import load_generator, load_model
from saicinpainting.networks.models import INSIDE
from saicinpainting.networks.recognition import as_generator, recognize_generator
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, rand
from tests.runs import composed

FFC = golden_values()["ffc"]
BLOCKS = FFC["resnet_conv_kwargs"]
DILATED = {
    "kind": "pix2pixhd_multidilated", "input_nc": 4, "output_nc": 3, "ngf": 8, "n_downsampling": 3, "n_blocks": 2,
    "add_out_act": "sigmoid", "multidilation_kwargs": {"comb_mode": "cat_in", "dilation_num": 4},
}  # fmt: skip
SECTIONS: dict[str, dict[str, Any]] = {
    "fourier": FFC,
    "all local": {**FFC, "resnet_conv_kwargs": {**BLOCKS, "ratio_gin": 0, "ratio_gout": 0}},
    "half global": {**FFC, "resnet_conv_kwargs": {**BLOCKS, "ratio_gin": 0.5, "ratio_gout": 0.5}},
    "local Fourier units": {**FFC, "ngf": 16, "resnet_conv_kwargs": {**BLOCKS, "enable_lfu": True}},
    "gated": {**FFC, "resnet_conv_kwargs": {**BLOCKS, "gated": True}},
    "squeeze and excitation": {**FFC, "resnet_conv_kwargs": {**BLOCKS, "use_se": True}},
    "coordinates": {**FFC, "resnet_conv_kwargs": {**BLOCKS, "spectral_pos_encoding": True}},
    "two halvings": {**FFC, "n_downsampling": 2, "n_blocks": 5},
    "narrow": {**FFC, "max_features": 32},
    "regular": {key: DILATED[key] for key in DILATED if key != "multidilation_kwargs"} | {"kind": "pix2pixhd_global"},
    "dilated": DILATED,
    "dilated, outputs cut": {**DILATED, "multidilation_kwargs": {"comb_mode": "cat_out", "dilation_num": 2}},
}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize(
    "wrapper",
    ["generator.", "", "module.", "_orig_mod.", "module.generator.", "net._orig_mod.", "model.", "model.module."],
)
def test_a_file_without_a_config_gives_the_network_it_was_saved_from(section: dict, wrapper: str, tmp_path: Path):
    network = fill(make_generator(**section)).eval()
    state = {wrapper + name: tensor for name, tensor in network.state_dict().items()}
    if "generator" in wrapper:
        state |= {wrapper.replace("generator", "discriminator") + "model0.0.weight": torch.zeros(8, 3, 4, 4)}
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_generator(tmp_path / "weights.pth").generator.eval()
    x = rand(1, 1, 4, 96, 96)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("layout", ["model", "generator", "nested", "beside others", "with an average", "netG"])
def test_weights_in_dicts_are_found(layout: str, tmp_path: Path):
    network = fill(make_generator(**FFC)).eval()
    state, other = network.state_dict(), make_generator(**FFC).state_dict()
    contents: dict[str, Any] = {
        "model": {"model": state, "epoch": 3},
        "generator": {"generator": state, "discriminator": {"model0.0.weight": torch.zeros(8, 3, 4, 4)}},
        "nested": {"net": {"module": state}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        "beside others": {"state_dict": {f"module.generator.{name}": tensor for name, tensor in state.items()}},
        "with an average": {"params": other, "params_ema": state},
        "netG": {"netG": state, "netD": {"model.0.0.weight": torch.zeros(8, 3, 4, 4)}},
    }
    torch.save(contents[layout], tmp_path / "weights.pth")
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "weights.pth").generator.eval()(x), network(x))


def test_the_average_is_taken_inside_wrappers_too(tmp_path: Path):
    network, other = fill(make_generator(**FFC)).eval(), make_generator(**FFC)
    state = {f"module.generator.{name}": tensor for name, tensor in other.state_dict().items()}
    state |= {f"module.generator_average.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.ckpt")
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "weights.ckpt").generator.eval()(x), network(x))


@pytest.mark.parametrize(
    "names",
    [
        {"model.1.weight": (64, 4, 7, 7), "model.4.conv_block.0.convs.x": (1,)},
        {"model.1.weight": (64,), "model.5.conv_block.1.weight": (1,)},
        {"model.1.weight": (64, 4, 7, 7), "x.conv_block.1.weight": (1,)},
        {"model.1.ffc.convl2l.weight": (64, 4, 7, 7), "model.0.conv1.q": (1,)},
    ],
)
def test_names_that_only_look_like_a_generator_are_refused(names: dict[str, tuple[int, ...]]):
    state = {f"generator.{name}": torch.zeros(shape) for name, shape in names.items()}
    with pytest.raises(InputError, match="its weights are of no generator that is known here"):
        recognize_generator(state, "stray.pth")


def test_weights_of_something_else_are_named(tmp_path: Path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: its weights are of no generator .*config\.yaml"):
        load_generator(tmp_path / "other.pth")


def test_a_file_of_lama_small_alone_fills_as_in_its_folder(tmp_path: Path):
    shipped = INSIDE / "lama-small" / "models" / "best.safetensors"
    shutil.copy(shipped, tmp_path / "weights.safetensors")
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        expected = load_model("lama-small").generator.eval()(x)
        assert torch.equal(load_model(tmp_path / "weights.safetensors").generator.eval()(x), expected)


@pytest.mark.parametrize("file", ["last.ckpt", "best.safetensors"])
def test_a_checkpoint_alone_says_what_no_weight_shows(file: str, tmp_path: Path):
    section = {**FFC, "initial_fill": "pyramid", "add_out_act": "tanh"}
    config = {"generator": section, "training_model": {"kind": "default"}}
    network = fill(make_generator(**section)).eval()
    state = {f"generator.{name}": tensor for name, tensor in network.state_dict().items()}
    write_checkpoint({"state_dict": state, "config": config}, tmp_path / file)
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / file).generator.eval()(x), network(x))


@pytest.mark.parametrize("config", [None, "lama", {"generator": "ffc"}, {"generator": FFC}, {"model": {}}])
def test_a_config_of_somebody_else_in_a_file_is_left_alone(config: Any, tmp_path: Path):
    weights = make_generator(**FFC).state_dict()
    state = {f"generator.{name}": tensor for name, tensor in weights.items()}
    for file in ("last.ckpt", "json.safetensors"):
        write_checkpoint({"state_dict": state, "config": config}, tmp_path / file)
    (tmp_path / "text.safetensors").write_bytes(save(state, {"config": f"{config}"}))
    for file in tmp_path.iterdir():
        assert load_model(file).generator.state_dict().keys() == weights.keys()


@pytest.mark.parametrize(
    "name", ["big-lama", "lama-ablation", "lama-fourier", "lama-regular", "lama-small", "lama-tiny"]
)
def test_networks_of_shipped_configs_are_recognised(name: str):
    section = composed(name, "location=sample")["generator"]
    with torch.device("meta"):
        network = make_generator(**section)
        state = {f"generator.{name}": tensor for name, tensor in network.state_dict().items()}
        found = make_generator(**recognize_generator(state, "weights.pth"))
    assert repr(found) == repr(network)  # with what has no weights, such as the initial fill


def test_published_sections_are_recognised(tmp_path: Path):
    with torch.device("meta"):
        state = make_generator(**{**FFC, "ngf": 64, "n_blocks": 18}).state_dict()
    found = recognize_generator(as_generator(state), "big-lama.pth")
    assert (found["kind"], found["n_blocks"], found["ngf"]) == ("ffc_resnet", 18, 64)
    assert found["resnet_conv_kwargs"]["ratio_gin"] == 0.75
