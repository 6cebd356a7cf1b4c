"""The official config folder, with its `# @package _group_` headers and Lightning-1 keys, trains by --config-path."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from saicinpainting.config import register_resolvers
from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.official_configs import read_group_headers
from saicinpainting.training.run import train
from saicinpainting.utils import count_parameters
from tests.helpers import run_script, shrunk, write_data, write_run
from tests.official_configs import RUNS, location, write_group_file, write_official_configs

MISSING_GENERATOR = "lama_small_train_masks"
MENDED = {MISSING_GENERATOR: ("generator=pix2pixhd_global_sigmoid",)}
MILLIONS = dict.fromkeys(RUNS, 45.62)  # lama-regular
MILLIONS |= {"big-lama": 50.98, "big-lama-celeba": 50.98, "big-lama-regular": 73.95, "big-lama-regular-celeba": 73.95}
MILLIONS |= {"lama-fourier": 27.05, "lama-fourier-celeba": 27.05, "ablv2_work_ffc075": 27.05, "ablv2_work_md": 45.65}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_official_configs(root / "configs")
    data = write_data(root / "data", size=80)
    for name in ("train", "val"):
        (data / f"{name}_256").symlink_to(data / name)
    return root


@cache
def composed(folder: Path, name: str, *overrides: str) -> DictConfig:
    register_resolvers()
    read_group_headers()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, list(overrides))
    OmegaConf.set_struct(config, False)
    return config


def small(root: Path) -> list[str]:
    """Overrides that let an official run file train in a second, without weights of other networks."""
    ours = ("evaluator=", "trainer.kwargs.accelerator=", "trainer.kwargs.devices=", "data.total_batch_size=")
    words = [word for word in shrunk(root, "losses.perceptual.weight=0") if not word.startswith(ours)]
    sizes = ["data.train.out_size=80", "data.val_batch_size=1", "data.batch_size=4", "+trainer.kwargs.max_steps=2"]
    return [*words, *sizes, "evaluator.integral_kind=null", "+evaluator.lpips=false", "+evaluator.fid=false"]


@pytest.mark.parametrize("name", RUNS)
def test_an_official_run_file_takes_two_steps_and_validates(root: Path, name: str, caplog) -> None:
    words = [word.lstrip("+") for word in (*small(root), "trainer.kwargs.accelerator=cpu")]
    config = OmegaConf.merge(composed(root / "configs", name, *MENDED.get(name, ())), OmegaConf.from_dotlist(words))
    assert isinstance(config, DictConfig)
    out = root / "runs" / name
    with caplog.at_level(logging.INFO):
        train(config, out)
    assert {file.name for file in (out / "models").iterdir()} == {"last.ckpt", "best.ckpt", "epoch=0-step=2.ckpt"}
    ignored = {key for key in ("losses.segm_pl", "losses.perceptual.kwargs") if f"{key}=" in caplog.text}
    losses: dict[str, Any] = RUNS[name][1].get("losses", {})
    assert ("losses.segm_pl" in ignored) == ("segm_pl" in losses)
    assert ("losses.perceptual.kwargs" in ignored) == ("perceptual" in losses)


@pytest.mark.parametrize("name", RUNS)
def test_networks_at_full_size(root: Path, name: str) -> None:
    config = composed(root / "configs", name, *MENDED.get(name, ()))
    with torch.device("meta"):
        generator, discriminator = make_generator(**config.generator), make_discriminator(**config.discriminator)
        assert round(count_parameters(generator) / 1e6, 2) == MILLIONS[name]
        painted = generator(torch.empty(2, 4, 256, 256))
        score, features = discriminator(painted)
    assert painted.shape == (2, 3, 256, 256)
    assert score.shape[:2] == (2, 1)
    assert len(features) == config.discriminator.n_layers + 1


def test_a_group_file_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(HydraException, match=r"(?s)Could not find 'generator/.*pix2pixhd_global_sigmoid"):
        composed(root / "configs", MISSING_GENERATOR)


def test_the_command_takes_the_official_folder(root: Path) -> None:
    words = ["--config-path", str(root / "configs"), "-cn", "lama-fourier", f"hydra.run.dir={root / 'out'}"]
    done = run_script("train.py", *words, *small(root), cwd=root, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "gpus=-1 is a Lightning-1 key, read as accelerator=auto" in (root / "out" / "train.log").read_text()


def test_prediction_takes_the_official_prediction_config(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data") / "val"
    section = {"path": "no", "checkpoint": "best.ckpt"}
    refiner = {"gpu_ids": "0,1", "modulo": "${dataset.pad_out_to_modulo}", "n_iters": 15, "lr": 0.002}
    dataset = {"kind": "default", "img_suffix": ".png", "pad_out_to_modulo": 8}
    settings = {"indir": "no", "outdir": "no", "model": section, "dataset": dataset, "device": "cuda"}
    write_group_file(tmp_path / "prediction" / "default.yaml", {**settings, "refine": False, "refiner": refiner})
    words = [f"model.path={write_run(tmp_path)}", f"indir={data}", f"outdir={tmp_path / 'out'}", "device=cpu"]
    done = run_script("predict.py", "--config-path", str(tmp_path / "prediction"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "out").glob("[!.]*")} == {"0_mask000.png", "1_mask000.png"}


def test_a_location_file_of_an_official_script_is_found_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    write_group_file(tmp_path / "location" / "mine.yaml", location("/lama"))
    done = run_script("train.py", "--config-dir", str(tmp_path), "location=mine", "--cfg", "job", cwd=tmp_path)
    assert "data_root_dir: /lama/data" in done.stdout


# ---- a stranger's ---------------------------------------------------------------------------------------------------

FILE_HANDLER = (
    "{version: 1, handlers: {f: {class: logging.FileHandler, filename: PRECIOUS, mode: w}}, root: {handlers: [f]}}"
)
FOREIGN = {
    "a section hydra": {"config.yaml": f"hydra: {{job_logging: {FILE_HANDLER}, hydra_logging: {FILE_HANDLER}}}"},
    "a run's folder": {"config.yaml": "hydra: {run: {dir: PRECIOUS}, output_subdir: ../..}"},
    "a callback": {"config.yaml": "hydra: {callbacks: {c: {_target_: pathlib.Path.write_text, self: PRECIOUS}}}"},
    "a group of hydra": {
        "config.yaml": "defaults: [override hydra/job_logging: mine, _self_]",
        "hydra/job_logging/mine.yaml": FILE_HANDLER,
    },
    "a package at its head": {
        "config.yaml": "defaults: [x: y, _self_]",
        "x/y.yaml": f"# @package hydra.job_logging\n{FILE_HANDLER}",
    },
    "a package of everything": {
        "config.yaml": "defaults: [x: y, _self_]",
        "x/y.yaml": f"# @package _global_\nhydra: {{job_logging: {FILE_HANDLER}}}",
    },
    "a package in the list": {"config.yaml": "defaults: ['x@hydra.job_logging': y, _self_]", "x/y.yaml": FILE_HANDLER},
    "a package from the top": {
        "config.yaml": "defaults: ['x@_global_.hydra.job_logging': y, _self_]",
        "x/y.yaml": FILE_HANDLER,
    },
    "aliases": {
        "config.yaml": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    },
    "interpolations": {"config.yaml": "".join(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}\n" for i in range(1, 60)) + "a0: x"},
}  # fmt: skip


@pytest.mark.parametrize("how", ["--config-path", "--config-dir"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_config_does_not_say_how_hydra_works(tmp_path: Path, name: str, how: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    for file, text in FOREIGN[name].items():
        path = tmp_path / "foreign" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("PRECIOUS", str(precious)))
    words = [how, str(tmp_path / "foreign"), "-cn", "config", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run_script("train.py", *words, cwd=tmp_path)
    assert done.returncode == 1  # it is no config of a training either
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().rpartition("\n")[2].startswith("error: ")
    assert precious.read_text() == "as it was"


def test_files_that_double_each_others_values_are_refused(tmp_path: Path) -> None:
    """Neither is large by itself."""
    foreign = tmp_path / "foreign"
    write_group_file(foreign / "x" / "y.yaml", {"b0": "text", **{f"b{i}": f"${{a{i}}}" * 2 for i in range(1, 40)}})
    own = {"defaults": [{"x": "y"}, "_self_"], "run_title": "${a40}"}
    config = {**own, **{f"a{i}": f"${{x.b{i - 1}}}" * 2 for i in range(1, 41)}}
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["--config-path", str(foreign), "-cn", "config", f"hydra.run.dir={tmp_path / 'run'}/${{run_title}}"]
    done = run_script("train.py", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "becomes too large by its interpolations" in done.stderr.rstrip().rpartition("\n")[2]
