"""Configs: resolvers of `${env:…}`, runs' folders, Lightning-1 keys in the terms of Lightning 2."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saicinpainting.io.interpolations import check_interpolations
from saicinpainting.io.weights import torch_home
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.utils import InputError, check_known_keys

LOGGER = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parent
# An installed wheel has the folder in the package, a checkout beside it.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without an entry in the password file
        return "user"


_ENV_DEFAULTS: dict[str, Callable[[], str]] = {"USER": _user_name, "TORCH_HOME": lambda: str(torch_home())}


GENERATOR_SECTIONS = ("generator", "training_model")
"""What a generator is read from."""
VARIABLES = ("USER", "HOME", "TORCH_HOME")
ALLOWING = "LAMA_CONFIG_VARIABLES"


def _env(name: str, default: str | None = None) -> str:
    if os.environ.get(name):
        # A config may be a stranger's, and what it says may be written or sent somewhere: tokens are in variables.
        if name not in (*VARIABLES, *os.environ.get(ALLOWING, "").split(",")):
            raise InputError(
                f"config: ${{env:{name}}} reads an environment variable other than {', '.join(VARIABLES)}; if you "
                f"trust the config with it, set {ALLOWING}={name} (several: with commas)"
            )
        return os.path.expanduser(os.environ[name]) if name == "TORCH_HOME" else os.environ[name]
    if default is not None:
        return str(default)
    if name in _ENV_DEFAULTS:
        return _ENV_DEFAULTS[name]()
    raise InputError(f"config: ${{env:{name}}} is used, but the environment variable {name} is not set")


def register_resolvers() -> None:
    """Make `${env:NAME}` and `${env:NAME,default}` of old and new configs resolve; safe to call twice."""
    for name in ("env", "oc.env"):
        OmegaConf.register_new_resolver(name, _env, replace=True)


def published_config(path: Path) -> Path:
    """`path`, or the repository's own file if `path` is `configs/…` and there is none from the current folder."""
    own = (CONFIGS.parent / path).resolve()
    return own if not path.exists() and own.is_file() and CONFIGS in own.parents else path


def command_config(config: DictConfig, name: str, *, open_sections: Iterable[str] = ()) -> DictConfig:
    """`config` of a command with what it lacks of the keys in `configs/NAME`, as the official files lack some.

    open_sections: sections of that file whose keys are checked elsewhere.

    Raises:
        InputError: a key that the file lacks, or a value where it has a section.
    """
    ours = {key: value for key, value in read_yaml(CONFIGS / name).items() if key not in ("defaults", "hydra")}
    check_known_keys(map(str, config), ours)
    given: dict[Any, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    sections = {key: section for key, section in ours.items() if isinstance(section, dict)}
    given = {key: value for key, value in given.items() if not (value is None and key in sections)}
    for key in sections.keys() & given.keys():
        if not isinstance(given[key], dict):
            raise InputError(
                f"{key}: expected settings such as {key}.{next(iter(sections[key]))}=…, got {given[key]!r}"
            )
        if key not in open_sections:
            check_known_keys(given[key], sections[key], where=key)
    whole = OmegaConf.merge(ours, given)
    assert isinstance(whole, DictConfig)
    return whole


def read_experiment_config(folder: str | Path) -> DictConfig:
    """The `config.yaml` of a run's folder, ours or a published one."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path} does not exist; model.path must be a run's folder with config.yaml and models/ in it")
    register_resolvers()
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in GENERATOR_SECTIONS):
        raise InputError(f"{path} is no LaMa training config: expected the sections generator and training_model")
    try:
        return OmegaConf.create(content)
    except (OmegaConfBaseException, RecursionError) as error:
        raise InputError(f"{path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ if isinstance(error.__cause__, InputError) else error).split())[:300]


def resolved_sections(config: DictConfig | Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """These sections of a config, as far as it has them, as plain dicts.

    Only what is read is resolved: old configs hold foreign variables elsewhere.
    """
    register_resolvers()
    try:
        if not OmegaConf.is_config(config):
            config = OmegaConf.create(dict(config))
        names = [name for name in names if name in config]
        check_interpolations(OmegaConf.to_container(config), names)
        # A section's interpolations (${generator.…}) go through its parent, so it is resolved where it stands.
        sections = {name: config[name] for name in names}
        return {
            name: OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section
            for name, section in sections.items()
        }
    except (OmegaConfBaseException, RecursionError) as error:
        line = _one_line(error)
        raise InputError(line if line.startswith("config:") else f"config: {line}") from error


def without_ignored_losses(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Section `losses` without the keys that official code never read; a warning names each."""
    left = dict(losses)
    if isinstance(left.get("perceptual"), Mapping):
        left["perceptual"] = dict(left["perceptual"])
    for section, key, name, reason in (
        (left, "segm_pl", "losses.segm_pl", "losses.resnet_pl is the perceptual loss of a segmentation network"),
        (
            left.get("perceptual"),
            "kwargs",
            "losses.perceptual.kwargs",
            "the loss is the mean squared error of VGG19's features",
        ),
    ):
        if isinstance(section, dict) and key in section:
            LOGGER.warning("%s=%s is ignored, as it was officially: %s", name, section.pop(key), reason)
    return left


# ---- Lightning 1 -> 2 -------------------------------------------------------------------------------------------

_GONE = {
    "replace_sampler_ddp": "every rank gets its own share of the images without it",
    "log_gpu_memory": "memory is always logged (memory_gpu_peak_mb)",
    "progress_bar_refresh_rate": "the progress bar refreshes by itself",
    "process_position": "the progress bar places itself",
    "weights_summary": "use enable_model_summary",
    "flush_logs_every_n_steps": "TensorBoard flushes by itself",
    "prepare_data_per_node": "data sets are prepared beforehand",
    "amp_level": "apex is gone; use precision",
    "move_metrics_to_cpu": "metrics keep little on the device",
    "enable_pl_optimizer": "optimizers are always wrapped",
    "automatic_optimization": "the module steps its optimizers itself",
    "multiple_trainloader_mode": "there is one training set",
    "track_grad_norm": "train_gen_grad_norm and train_discr_grad_norm are always logged",
}
_REFUSED = {
    "amp_backend": "precision=16-mixed or precision=bf16-mixed",
    "auto_scale_batch_size": "data.batch_size",
    "auto_lr_find": "optimizers.generator.lr and optimizers.discriminator.lr",
    "tpu_cores": "accelerator=tpu and devices",
    "auto_select_gpus": "devices",
    "weights_save_path": "hydra.run.dir",
    "stochastic_weight_avg": "a Lightning callback",
    "truncated_bptt_steps": "nothing: the networks are not recurrent",
}
_OLD_ACCELERATORS: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "ddp_spawn": {"strategy": "ddp_spawn"},
    "ddp_cpu": {"strategy": "ddp", "accelerator": "cpu"},
}


def translate_trainer_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`trainer.kwargs` of a Lightning-1 config in the terms of Lightning 2.

    Every translated key is warned about; a key that has no counterpart is an `InputError` naming what replaces it.
    Keys of Lightning 2 pass unchanged.
    """
    kwargs = {key: None if value == "None" else value for key, value in kwargs.items()}
    new: dict[str, Any] = {}
    for key, value in kwargs.items():
        if key in _REFUSED:
            raise InputError(f"trainer.kwargs.{key} is gone in Lightning 2; use {_REFUSED[key]} instead")
        if key in _GONE:
            _warn(f"{key}={value}", f"nothing: {_GONE[key]}")
        elif key in _TRANSLATED:
            translated = _TRANSLATED[key](value)
            if translated != {key: value}:
                _warn(f"{key}={value}", ", ".join(f"{k}={v}" for k, v in translated.items()) or "nothing")
            if key != "devices" and "devices" in translated and kwargs.get("devices", "auto") != "auto":
                raise InputError(f"trainer.kwargs: {key} (Lightning 1) and devices are both set; keep devices")
            new.update({k: v for k, v in translated.items() if v != "auto" or k not in new})
        else:
            new[key] = value
    return new


def translate_checkpoint_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`trainer.checkpoint_kwargs` of a Lightning-1 config in the terms of Lightning 2."""
    new = dict(kwargs)
    if "period" in new:
        period = new.pop("period")
        _warn(f"period={period}", f"every_n_epochs={period}", key="checkpoint_kwargs")
        new.setdefault("every_n_epochs", period)
    return new


def _warn(old: str, new: str, key: str = "kwargs") -> None:
    LOGGER.warning("trainer.%s: %s is a Lightning-1 key, read as %s", key, old, new)


def _gpus(value: Any) -> dict[str, Any]:
    """A number counts GPUs (-1: all); a string or a list names them, as in Lightning 1."""
    if value in (None, 0):
        return {"accelerator": "cpu"}
    if isinstance(value, str):
        value = -1 if value.strip() == "-1" else [int(index) for index in value.split(",") if index.strip()]
    # All there are, which may be none. What else the config says of accelerator and devices counts.
    return {"accelerator": "auto", "devices": "auto"} if value == -1 else {"accelerator": "gpu", "devices": value}


def _accelerator(value: Any) -> dict[str, Any]:
    if value in ("dp", "ddp2", "horovod"):
        raise InputError(f"trainer.kwargs.accelerator={value} is gone in Lightning 2; use strategy=ddp instead")
    return {} if value is None else dict(_OLD_ACCELERATORS.get(value, {"accelerator": value}))


def _precision(value: Any) -> dict[str, Any]:
    return {"precision": "16-mixed" if str(value) == "16" else value}


_TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gpus": _gpus,
    "num_processes": lambda value: {"devices": value},
    "accelerator": _accelerator,
    "distributed_backend": _accelerator,
    "max_steps": lambda value: {"max_steps": -1 if value is None else value},
    "precision": _precision,
    "terminate_on_nan": lambda value: {"detect_anomaly": True} if value else {},
    "checkpoint_callback": lambda value: {"enable_checkpointing": value},
    "reload_dataloaders_every_epoch": lambda value: {"reload_dataloaders_every_n_epochs": int(bool(value))},
}

LIGHTNING_1_KEYS = frozenset(
    {
        "trainer.checkpoint_kwargs.period",
        *(f"trainer.kwargs.{key}" for key in ("resume_from_checkpoint", *_GONE, *_REFUSED, *_TRANSLATED)),
    }
)
"""Keys that a command line may set though no config of ours has them."""
