from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from saicinpainting.config import (
    command_config,
    published_config,
    read_experiment_config,
    register_resolvers,
    resolved_sections,
    translate_checkpoint_kwargs,
    translate_trainer_kwargs,
)
from saicinpainting.io.weights import torch_home
from saicinpainting.utils import InputError

ROOT = Path(__file__).resolve().parents[1]
LIGHTNING_1 = {
    "gpus": -1,
    "accelerator": "ddp",
    "max_epochs": 200,
    "gradient_clip_val": 1,
    "log_gpu_memory": "None",
    "limit_train_batches": 25000,
    "val_check_interval": 25000,
    "log_every_n_steps": 1000,
    "precision": 32,
    "terminate_on_nan": False,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 8,
    "limit_val_batches": 1000,
    "replace_sampler_ddp": False,
}


def resolve_without(*variables: str) -> list[str]:
    """Resolve `${env:USER}` and `${env:TORCH_HOME}` in a process whose environment lacks `variables`."""
    environment = {k: v for k, v in os.environ.items() if k not in (*variables, "LOGNAME", "LNAME", "USERNAME")}
    code = (
        "from omegaconf import OmegaConf\n"
        "from saicinpainting.config import register_resolvers\n"
        "register_resolvers()\n"
        "values = ['${env:USER}', '${env:TORCH_HOME}', '${env:NO_SUCH_VARIABLE,fallback}']\n"
        "print(*OmegaConf.create(values), sep='\\n')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_old_configs_resolve_where_variables_are_unset():
    user, torch_home, fallback = resolve_without("USER", "TORCH_HOME")
    assert user
    assert Path(torch_home).is_absolute()
    assert Path(torch_home).name == "torch"
    assert fallback == "fallback"


def test_a_set_variable_wins(monkeypatch: pytest.MonkeyPatch):
    register_resolvers()
    monkeypatch.setenv("TORCH_HOME", "/models")
    assert OmegaConf.create({"a": "${env:TORCH_HOME}/ade20k"}).a == "/models/ade20k"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch):
    register_resolvers()
    monkeypatch.setenv("TORCH_HOME", "")
    assert Path(OmegaConf.create({"a": "${env:TORCH_HOME}"}).a) == torch_home()


@pytest.mark.parametrize("resolver", ["env", "oc.env"])
def test_a_variable_that_a_config_has_no_business_with_is_named_with_what_allows_it(
    monkeypatch: pytest.MonkeyPatch, resolver: str
):
    monkeypatch.setenv("A_TOKEN", "secret")
    config = {"generator": {"kind": f"${{{resolver}:A_TOKEN}}", "b": f"${{{resolver}:A_TOKEN,default}}"}}
    with pytest.raises(InputError, match=r"A_TOKEN.*USER, HOME, TORCH_HOME.*LAMA_CONFIG_VARIABLES=A_TOKEN") as error:
        resolved_sections(config, ["generator"])
    assert "secret" not in str(error.value)
    monkeypatch.setenv("LAMA_CONFIG_VARIABLES", "OTHER,A_TOKEN")
    assert resolved_sections(config, ["generator"]) == {"generator": {"kind": "secret", "b": "secret"}}


@pytest.mark.parametrize("value", ["${", "${a", "${env:}", "${nothing}", "${no_such:1}", "${generator.kind.x}"])
def test_a_damaged_interpolation_is_one_line(tmp_path: Path, value: str):
    (tmp_path / "config.yaml").write_text(f"generator: {{kind: '{value}'}}\ntraining_model: {{kind: default}}\n")
    with pytest.raises(InputError) as error:
        resolved_sections(read_experiment_config(tmp_path), ["generator"])
    assert "\n" not in str(error.value)


def test_an_unknown_variable_is_named():
    register_resolvers()
    with pytest.raises(Exception, match="NO_SUCH_VARIABLE is not set"):
        _ = OmegaConf.create({"a": "${env:NO_SUCH_VARIABLE}"}).a


def test_a_published_trainer_section_becomes_a_lightning_2_one(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        new = translate_trainer_kwargs(LIGHTNING_1)
    assert new["devices"] == "auto"
    assert new["accelerator"] == "auto"
    assert new["strategy"] == "ddp"
    for gone in ("gpus", "log_gpu_memory", "terminate_on_nan", "replace_sampler_ddp"):
        assert gone not in new
        assert gone in caplog.text
    rest = {k: v for k, v in new.items() if k not in ("devices", "accelerator", "strategy")}
    pl.Trainer(**rest, accelerator="cpu", logger=False)  # Lightning itself takes every key that is left


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"gpus": 2}, {"accelerator": "gpu", "devices": 2}),
        ({"gpus": 0}, {"accelerator": "cpu"}),
        ({"gpus": "0"}, {"accelerator": "gpu", "devices": [0]}),
        ({"gpus": "1,3"}, {"accelerator": "gpu", "devices": [1, 3]}),
        ({"gpus": "-1"}, {"accelerator": "auto", "devices": "auto"}),
        ({"gpus": -1, "accelerator": "cpu"}, {"accelerator": "cpu", "devices": "auto"}),
        ({"accelerator": "cpu", "gpus": -1}, {"accelerator": "cpu", "devices": "auto"}),
        ({"max_steps": None, "accelerator": None}, {"max_steps": -1}),
        ({"precision": 16}, {"precision": "16-mixed"}),
        ({"terminate_on_nan": True}, {"detect_anomaly": True}),
        ({"accelerator": "ddp_cpu", "num_processes": 2}, {"accelerator": "cpu", "strategy": "ddp", "devices": 2}),
        (
            {"accelerator": "gpu", "devices": 3, "strategy": "auto"},
            {"accelerator": "gpu", "devices": 3, "strategy": "auto"},
        ),
    ],
)
def test_translation(old: dict, new: dict):
    assert translate_trainer_kwargs(old) == new


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"amp_backend": "apex"}, "amp_backend.*precision"),
        ({"accelerator": "dp"}, "strategy=ddp"),
        ({"auto_lr_find": True}, "optimizers"),
        ({"gpus": 2, "devices": 3}, "keep devices"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_new_key(old: dict, message: str):
    with pytest.raises(InputError, match=message):
        translate_trainer_kwargs(old)


def test_the_period_of_checkpoints():
    assert translate_checkpoint_kwargs({"period": 2, "save_top_k": 5}) == {"every_n_epochs": 2, "save_top_k": 5}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), ("a: [", "no valid YAML"), ("a: 1", "no LaMa training config")],
)
def test_an_experiment_folder_without_a_usable_config(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_experiment_config(tmp_path)


# ---- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["prediction/default.yaml", "prediction/demo.yaml", "evaluation/default.yaml"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modle.path=x"], "^modle: unknown config key; .*did you mean 'model'"),
        (["model.paht=x"], "^model.paht: unknown config key; known: checkpoint, .*did you mean 'path'"),
        (["refiner.n_iter=3"], "^refiner.n_iter: unknown config key"),
        (["model=big-lama"], "^model: expected settings such as model.path=…, got 'big-lama'"),
    ],
)
def test_a_commands_unknown_keys_are_named(file: str, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        command_config(OmegaConf.from_dotlist(words), file)


def test_a_commands_config_is_completed_by_ours() -> None:
    theirs = "{device: cuda, refine: false, mask: null, dataset: {pad_out_to_modulo: 16, of_a_kind: 1}}"
    config = command_config(OmegaConf.create(theirs), "prediction/default.yaml", open_sections=["dataset"])
    assert (config.device, config.mask.path, config.refiner.modulo) == ("cuda", None, 16)
    assert "defaults" not in config


# ---- published configs ----------------------------------------------------------------------------------------------


def test_published_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = Path("configs/data_gen/random_medium_512.yaml")
    monkeypatch.chdir(tmp_path)
    assert published_config(name) == ROOT / name
    for other in ("configs/data_gen/absent.yaml", "setup.py", "configs/../setup.py", "random_medium_512.yaml"):
        assert published_config(Path(other)) == Path(other)
    name.parent.mkdir(parents=True)
    name.write_text("mine")
    assert published_config(name) == name
