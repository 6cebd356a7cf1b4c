"""Reading a trained module from an experiment's checkpoint, ours or a published one."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from saicinpainting.checkpoint import FROZEN_PREFIXES, StateDict, read_checkpoint, without_prefixes
from saicinpainting.training.trainers.averaging import PREFIX as AVERAGE_PREFIX
from saicinpainting.training.trainers.averaging import average_as_generator
from saicinpainting.training.trainers.build import make_training_model
from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)


def load_checkpoint(
    train_config: DictConfig, path: str | Path, map_location: Any = "cpu", strict: bool = True
) -> DefaultInpaintingTrainingModule:
    """Build the module of `train_config` and fill it from the checkpoint at `path`.

    The file may be ours, one written by Lightning 1.2.9, a bare state dict of the module, or `.safetensors`. Tensors
    are read, nothing else in it is executed. Pretrained networks (losses, metrics) inside the file are left out.

    Args:
        train_config: the experiment's `config.yaml`; with `training_model.predict_only: true` the generator alone is
            built, and filled with the averaged weights where the file has them (`average_generator`).
        path: the checkpoint file.
        map_location: where the tensors go while reading.
        strict: demand the weights of everything that is built; otherwise the generator's alone.

    Raises:
        InputError: the file is missing or damaged, or does not fit the config.
    """
    model = make_training_model(train_config)
    state = without_prefixes(read_checkpoint(path, map_location)["state_dict"], FROZEN_PREFIXES)
    if not hasattr(model, "discriminator"):
        state = average_as_generator(state)
    check_fit(model, state, path, prefix="" if strict else "generator.")
    # An average that is still empty takes weights without showing names of its own.
    wanted = tuple(_networks(model.state_dict()))
    wanted += (AVERAGE_PREFIX,) if getattr(model, "generator_average", None) is not None else ()
    result = model.load_state_dict({name: t for name, t in state.items() if name.startswith(wanted)}, strict=False)
    left_out = networks_in(name for name in state if not name.startswith(wanted))
    if left_out:
        LOGGER.info("%s: not needed and left out: %s", path, ", ".join(left_out))
    fresh = networks_in(name for name in result.missing_keys if not name.startswith(FROZEN_PREFIXES))
    if fresh:
        LOGGER.warning("%s has no weights of: %s; they stay as initialised", path, ", ".join(fresh))
    return model


def networks_in(names: Any) -> list[str]:
    """The networks that weights of these names belong to: what comes before the first dot."""
    return sorted({name.split(".")[0] for name in names})


def check_fit(model: torch.nn.Module, state: StateDict, path: str | Path, prefix: str) -> None:
    """Every weight of the model under `prefix` must be in the file, in its shape, and none too many."""
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(FROZEN_PREFIXES)}
    wanted = {name for name in own if name.startswith(prefix)}
    # Without `strict` a file may hold more networks than are built, but never more of the generator.
    surplus = {name for name in state.keys() - own.keys() if name.startswith(prefix or tuple(_networks(own)))}
    shapes = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    problem = misfit(own, state, wanted | surplus | shapes)
    if problem:
        remedy = generator_remedy(own, state) or "is config.yaml of the same experiment?"
        raise InputError(f"checkpoint {path} does not fit its config: {problem}; {remedy}")


def misfit(own: StateDict, state: StateDict, names: Collection[str]) -> str:
    """What keeps the weights `names` of a file, `state`, from filling those of a model, `own`; empty if nothing."""
    missing = sorted(name for name in names if name not in state)
    surplus = sorted(name for name in names if name not in own)
    shapes = sorted(name for name in names if name in own and name in state and own[name].shape != state[name].shape)
    if not (missing or surplus or shapes):
        return ""
    example = (
        f"{shapes[0]} is {tuple(state[shapes[0]].shape)} in the file, {tuple(own[shapes[0]].shape)} in the config"
        if shapes
        else f"first missing: {missing[0]}"
        if missing
        else f"first unknown: {surplus[0]}"
    )
    return f"{len(missing)} weights missing, {len(surplus)} too many, {len(shapes)} of another shape ({example})"


# The generators of shipped configs. The celeba variants are the same networks.
_CONFIGS: dict[tuple[Any, Any], str] = {
    ("ffc_resnet", 9): "lama-fourier",
    ("ffc_resnet", 18): "big-lama",
    ("pix2pixhd_global", 9): "lama-regular",
    ("pix2pixhd_global", 15): "big-lama-regular",
    ("pix2pixhd_multidilated", 9): "ablv2_work_md",
}


def generator_remedy(own_state: StateDict, file_state: StateDict) -> str:
    """Which settings of the generator differ in a file, and the config that has them; empty where nothing tells."""
    own, file = generator_settings(own_state), generator_settings(file_state)
    differing = [name for name in file if name in own and own[name] != file[name]]
    if not differing:
        return ""
    found = ", ".join(f"{name}={file[name]} (config: {own[name]})" for name in differing)
    settings = " ".join(f"generator.{name}={file[name]}" for name in differing)
    config = _CONFIGS.get((file.get("kind"), file.get("n_blocks")))
    shipped = f", or take the config {config}" if config and (file.get("ngf"), file.get("input_nc")) == (64, 4) else ""
    return f"the generator in the file has {found}; set {settings}{shipped}"


def generator_settings(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What names and shapes of the weights `generator.*` tell of the config section `generator`.

    `kind`, `n_blocks`, and, where the first convolution is an ordinary one, `ngf` and `input_nc`; empty without any.
    """
    names = [name for name in state if name.startswith("generator.")]
    kinds = {
        "ffc_resnet": ".ffc.",
        "pix2pixhd_multidilated": ".conv_block.0.convs.",
        "pix2pixhd_global": ".conv_block.",
    }
    kind = next((kind for kind, part in kinds.items() if any(part in name for name in names)), None)
    if kind is None:
        return {}
    settings: dict[str, Any] = {"kind": kind, "n_blocks": _count_blocks(names)}
    stem = "generator.model.1" + (".ffc.convl2l" if kind == "ffc_resnet" else "")
    if f"{stem}.weight" in state and f"{stem.removesuffix('l2l')}l2g.weight" not in state:
        settings["ngf"], settings["input_nc"] = state[f"{stem}.weight"].shape[:2]
    return settings


def _count_blocks(names: Collection[str]) -> int:
    """Residual blocks in a row; one at full resolution (`out_ffc`) does not follow the others."""
    found = [re.match(r"generator\.model\.(\d+)\.(?:conv1|conv_block)\.", name) for name in names]
    places = sorted({int(match[1]) for match in found if match})
    return sum(place - places[0] == i for i, place in enumerate(places))


def _networks(own: StateDict) -> set[str]:
    return {name + "." for name in networks_in(own)}
