"""Starting a run from the weights of another: `trainer.finetune_from`."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from saicinpainting.io.checkpoint import StateDict, read_checkpoint
from saicinpainting.io.connection import is_address
from saicinpainting.networks.ema import with_averaged_generator
from saicinpainting.networks.load import misfit, networks_in
from saicinpainting.networks.models import is_model_name, locate_model, published_models
from saicinpainting.networks.recognition import as_generator, generator_remedy, has_average
from saicinpainting.training.module import InpaintingModule
from saicinpainting.utils import InputError, add_prefix_to_keys

LOGGER = logging.getLogger(__name__)

# What to take of a run's folder, the better first.
_FILES = ("best.ckpt", "best.safetensors", "last.ckpt")
_DISCRIMINATOR = re.compile(r"^((module|_orig_mod|model)\.)*discriminator\.((module|_orig_mod)\.)*")


def finetune_path(path: str | None, *, resume_from: str | None, resuming: bool) -> Path | None:
    """The file that `trainer.finetune_from`, a file or a run's folder, means; None where it is not set.

    Args:
        path: the setting.
        resume_from: the setting `trainer.resume_from_checkpoint`.
        resuming: this start resumes a run of its own (`resume_from_checkpoint=auto` has found one), which has
            its weights already: None. So one command starts a run and, given again, continues it.

    Raises:
        InputError: the path leads to no weights, or another checkpoint is to be resumed from besides.
    """
    if not path:
        return None
    if resume_from not in (None, "auto"):
        raise InputError(
            f"trainer.finetune_from={path} and trainer.resume_from_checkpoint={resume_from} are both set; keep the "
            "former to start a new run from these weights, the latter to resume the run itself (optimizers, epoch)"
        )
    if resuming:
        LOGGER.info("trainer.finetune_from=%s: was used when this run began; it goes on with its own weights", path)
        return None
    return _weights_at(str(path))


def _weights_at(place: str) -> Path:
    path = Path(place)
    if place.startswith("hf://") or is_address(place):
        return locate_model(place).checkpoint
    if path.is_file():
        return locate_model(path).checkpoint  # inside a zip of a run
    candidates = [folder / name for folder in (path / "models", path) for name in _FILES]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None and is_model_name(place) and place in published_models():
        return locate_model(place).checkpoint
    if found is None:
        raise InputError(
            f"trainer.finetune_from: no {', '.join(_FILES)} in {path / 'models'} or {path}; expected a checkpoint or "
            "a run's folder"
        )
    return found


def start_from(model: InpaintingModule, path: str | Path) -> None:
    """Fill the networks of `model` from the file at `path`: weights alone, no optimizer, epoch or step.

    The file may be a checkpoint of a run, ours or one written by Lightning 1.2.9, with or without a discriminator, or
    the weights of a generator alone, wrapped as `as_generator` takes them. Where it holds averaged weights
    (`average_generator`), they become the generator's: they are what validation has judged. A discriminator that the
    file lacks or that does not fit stays as initialised. The log says what was taken and what was not.

    Raises:
        InputError: the file is missing or damaged, holds no generator or one of another config.
    """
    checkpoint = read_checkpoint(path)
    average = has_average(checkpoint["state_dict"])
    state = _by_network(with_averaged_generator(checkpoint["state_dict"]), path)
    _fill_generator(model.generator, state, path)
    why_fresh = _fill_discriminator(model.discriminator, state)
    ignored = [name for name in networks_in(state) if name not in ("generator", "discriminator")]
    ignored += ["optimizers", "epoch and step"] if "optimizer_states" in checkpoint else []
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return
    counts = [f"{key} {checkpoint[key]}" for key in ("epoch", "global_step") if isinstance(checkpoint.get(key), int)]
    LOGGER.info("fine-tuning from %s%s", path, f" ({', '.join(counts)})" if counts else "")
    kind = " (the average of its weights)" if average else ""
    LOGGER.info("  taken: generator%s%s", kind, "" if why_fresh else ", discriminator")
    if ignored:
        LOGGER.info("  left out: %s", ", ".join(ignored))
    if why_fresh and model.losses.adversarial_weight > 0:
        LOGGER.warning(
            "  discriminator: starts from random weights (%s), whose judgement wears down a trained generator at "
            "first: take a checkpoint that has one (the authors publish big-lama-with-discr), train it alone at first "
            "(+training_model.discriminator_warmup_steps=1000), or lower optimizers.generator.lr, for example to "
            "0.0001",
            why_fresh,
        )


def _by_network(state: StateDict, path: str | Path) -> StateDict:
    """The weights with their network's name in front, which the file of a generator alone may leave out."""
    state = {_DISCRIMINATOR.sub("discriminator.", name): tensor for name, tensor in as_generator(state).items()}
    if any(name.startswith("generator.") for name in state):
        return state
    if any(name.startswith("model.") for name in state):
        return {f"generator.{name}": tensor for name, tensor in state.items()}
    raise InputError(
        f"trainer.finetune_from: {path} holds no generator; expected weights named generator.* or, for a generator "
        f"alone, model.*; it has those of: {', '.join(networks_in(state))}"
    )


def _fill_generator(generator: nn.Module, state: StateDict, path: str | Path) -> None:
    own = add_prefix_to_keys(generator.state_dict(), "generator.")
    found = {name: tensor for name, tensor in state.items() if name.startswith("generator.")}
    problem = misfit(own, found, own.keys() | found.keys())
    if problem:
        remedy = generator_remedy(own, found) or "take the config the file was trained with"
        if any("running_mean" in name for name in own) and not any("running_mean" in name for name in found):
            remedy = "its batch norms are in the kernels, as an export has them; take the checkpoint it was made of"
        raise InputError(
            f"trainer.finetune_from: the generator in {path} is not that of the config: {problem}; {remedy}"
        )
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"trainer.finetune_from: {path} holds numbers that are not finite in {len(broken)} weights, the first "
            f"{broken[0]}; take an earlier checkpoint"
        )
    generator.load_state_dict({name.removeprefix("generator."): tensor for name, tensor in found.items()})


def _fill_discriminator(discriminator: nn.Module, state: StateDict) -> str:
    """Fill it if it is in the file and fits; otherwise why not."""
    prefix = "discriminator."
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not found:
        return "the file has none"
    own = discriminator.state_dict()
    problem = misfit(own, found, own.keys() | found.keys())
    if not problem:
        discriminator.load_state_dict(found)
    return problem
