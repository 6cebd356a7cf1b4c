"""Reading a trained module from an experiment's checkpoint, ours or a published one."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from omegaconf import DictConfig

from saicinpainting.io.checkpoint import FROZEN_PREFIXES, read_checkpoint, without_prefixes
from saicinpainting.networks.ema import PREFIX as AVERAGE_PREFIX
from saicinpainting.networks.ema import with_averaged_generator
from saicinpainting.networks.load import check_buildable, check_fit, networks_in, networks_of
from saicinpainting.training.factory import make_training_model, sections_of
from saicinpainting.training.module import InpaintingModule
from saicinpainting.utils import check_trusted

LOGGER = logging.getLogger(__name__)


def load_checkpoint(
    train_config: DictConfig,
    path: str | Path,
    map_location: str | torch.device = "cpu",
    strict: bool = True,
    *,
    trust: Collection[str] = (),
) -> InpaintingModule:
    """Build the module of `train_config` and fill it from the checkpoint at `path`.

    The file may be ours, one written by Lightning 1.2.9, a bare state dict of the module, or `.safetensors`. Tensors
    are read, nothing else in it is executed. Pretrained networks (losses, metrics) inside the file are left out.

    Args:
        train_config: the experiment's `config.yaml`; with `training_model.predict_only: true` the generator alone is
            built, and filled with the averaged weights where the file has them (`average_generator`).
        path: the checkpoint file.
        map_location: where the tensors go while reading.
        strict: demand the weights of everything that is built; otherwise the generator's alone.
        trust: packages that a `_target_` in the config may name, for example `("my_lab",)`.

    Raises:
        InputError: the file is missing or damaged, or does not fit the config.
    """
    sections = sections_of(train_config)
    check_trusted(sections, trust)
    state = without_prefixes(read_checkpoint(path, map_location)["state_dict"], FROZEN_PREFIXES)
    check_buildable(sections, state, path)
    model = make_training_model(train_config)
    if not hasattr(model, "discriminator"):
        state = with_averaged_generator(state)
    check_fit(model, state, path, prefix="" if strict else "generator.")
    # An average that is still empty takes weights without showing names of its own.
    wanted = tuple(networks_of(model.state_dict()))
    wanted += (AVERAGE_PREFIX,) if getattr(model, "generator_average", None) is not None else ()
    result = model.load_state_dict({name: t for name, t in state.items() if name.startswith(wanted)}, strict=False)
    left_out = networks_in(name for name in state if not name.startswith(wanted))
    if left_out:
        LOGGER.info("%s: not needed and left out: %s", path, ", ".join(left_out))
    fresh = networks_in(name for name in result.missing_keys if not name.startswith(FROZEN_PREFIXES))
    if fresh:
        LOGGER.warning("%s has no weights of: %s; they stay as initialised", path, ", ".join(fresh))
    return model
