"""Reading a trained module from an experiment's checkpoint, ours or a published one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from saicinpainting.checkpoint import FROZEN_PREFIXES, StateDict, read_checkpoint, without_prefixes
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
            built.
        path: the checkpoint file.
        map_location: where the tensors go while reading.
        strict: demand the weights of everything that is built; otherwise the generator's alone.

    Raises:
        InputError: the file is missing or damaged, or does not fit the config.
    """
    model = make_training_model(train_config)
    state = without_prefixes(read_checkpoint(path, map_location)["state_dict"], FROZEN_PREFIXES)
    check_fit(model, state, path, prefix="" if strict else "generator.")
    own = model.state_dict()
    result = model.load_state_dict({name: t for name, t in state.items() if name in own}, strict=False)
    left_out = sorted({name.split(".")[0] for name in state if name not in own})
    if left_out:
        LOGGER.info("%s: not needed and left out: %s", path, ", ".join(left_out))
    fresh = sorted({name.split(".")[0] for name in result.missing_keys if not name.startswith(FROZEN_PREFIXES)})
    if fresh:
        LOGGER.warning("%s has no weights of: %s; they stay as initialised", path, ", ".join(fresh))
    return model


def check_fit(model: torch.nn.Module, state: StateDict, path: str | Path, prefix: str) -> None:
    """Every weight of the model under `prefix` must be in the file, in its shape, and none too many."""
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(FROZEN_PREFIXES)}
    wanted = {name for name in own if name.startswith(prefix)}
    missing = sorted(wanted - state.keys())
    # Without `strict` a file may hold more networks than are built, but never more of the generator.
    surplus = sorted(name for name in state.keys() - own.keys() if name.startswith(prefix or tuple(_networks(own))))
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or surplus or shapes:
        example = (
            f"{shapes[0]} is {tuple(state[shapes[0]].shape)} in the file, {tuple(own[shapes[0]].shape)} in the config"
            if shapes
            else f"first missing: {missing[0]}"
            if missing
            else f"first unknown: {surplus[0]}"
        )
        raise InputError(
            f"checkpoint {path} does not fit its config: {len(missing)} weights missing, {len(surplus)} too many, "
            f"{len(shapes)} of another shape ({example}); is config.yaml of the same experiment?"
        )


def _networks(own: StateDict) -> set[str]:
    return {name.split(".")[0] + "." for name in own}
