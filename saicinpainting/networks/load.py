"""A trained generator from a run's folder or a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from saicinpainting.config import GENERATOR_SECTIONS, read_experiment_config, resolved_sections
from saicinpainting.io.checkpoint import CONFIG, FROZEN_PREFIXES, StateDict, read_checkpoint
from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.networks.base import Generator
from saicinpainting.networks.fourier import FourierOptions, set_fft_backend
from saicinpainting.networks.inputs import GeneratorInput
from saicinpainting.networks.models import locate_model
from saicinpainting.networks.recognition import as_generator, generator_remedy, recognize_generator
from saicinpainting.networks.unfolding import unfolded, with_idle_norms
from saicinpainting.schema import read_section
from saicinpainting.utils import InputError, check_trusted

LAYERS = ("n_blocks", "n_downsampling", "dilation_num", "n_layers")
MOST_LAYERS = 200
"""Each is built, which takes milliseconds; none of ours has more than 40."""
SPARE_WEIGHTS = 1 << 26
"""Of a network that a config may describe beside any file: 256 MiB. What does not fit is named weight by weight."""
MOST_OF_ANYTHING = 1 << 16
"""Channels, sizes and the like of a network."""


class TrainedGenerator(NamedTuple):
    """A generator and what makes its input."""

    generator: Generator
    generator_input: GeneratorInput


def build_generator(settings: Mapping[str, Any], model_settings: Mapping[str, Any]) -> TrainedGenerator:
    """The generator with new weights that the config section `generator` describes.

    Args:
        settings: the section.
        model_settings: the section `training_model`, of which `GeneratorInput` and `FourierOptions` are read.

    Raises:
        InputError: an unknown setting, or `generator.input_nc` does not fit the input.
    """
    generator_input = read_section(GeneratorInput, model_settings, where="training_model", only=False)
    generator_input = replace(generator_input, image_channels=image_channels_of(settings))
    generator = make_generator(**settings)
    ours = settings.get("_target_") is None
    if (ours or "input_nc" in settings) and settings.get("input_nc") != generator_input.channels:
        raise InputError(
            f"generator.input_nc={settings.get('input_nc')}: with {generator_input.image_channels} channels of the "
            f"image (generator.output_nc), training_model.concat_mask={str(generator_input.concat_mask).lower()} and "
            f"{generator_input.noise_channels} noise channels the input has {generator_input.channels}"
        )
    options = read_section(FourierOptions, model_settings, where="training_model", only=False)
    set_fft_backend(generator, options.fft_backend)
    return TrainedGenerator(generator, generator_input)


def image_channels_of(settings: Mapping[str, Any]) -> int:
    """Channels of the images that the config section `generator` is made for: `output_nc`, 3 where it has none."""
    channels = settings.get("output_nc", 3)
    return channels if isinstance(channels, int) else 3


def load_generator(
    path: str | Path, config: DictConfig | Mapping[str, Any] | None = None, *, trust: Collection[str] = ()
) -> TrainedGenerator:
    """The generator in the checkpoint at `path`.

    Averaged weights (`average_generator`) are taken where the file has them. Tensors are read, nothing else in the
    file is executed, and no `_target_` in the config unless its package is trusted.

    Args:
        path: a checkpoint, or the generator's weights alone, as `read_checkpoint` takes them.
        config: the run's `config.yaml`; None: what the file has of it or, of others' files, the weights' names and
            shapes say which network it is.
        trust: packages that a `_target_` in the config may name, for example `("my_lab",)`.

    Raises:
        InputError: the file is missing or damaged, does not fit the config, or is no generator of LaMa's.
    """
    checkpoint = read_checkpoint(path)
    read = as_generator(checkpoint["state_dict"])
    if config is None and _describes_a_generator(checkpoint.get(CONFIG)):
        config = checkpoint[CONFIG]
    try:
        state = unfolded(read)
    except (
        KeyError,
        IndexError,
        TypeError,
        RuntimeError,
    ) as error:  # names of an exported generator, and not its weights
        raise InputError(f"checkpoint {path}: its weights are of no generator that is known here ({error})") from error
    if config is None:
        sections: dict[str, Any] = {"generator": recognize_generator(state, path), "training_model": {}}
    else:
        sections = resolved_sections(config, GENERATOR_SECTIONS)
        check_trusted(sections, trust)
    check_buildable(sections, state, path)
    trained = build_generator(sections["generator"], sections["training_model"])
    holder = torch.nn.ModuleDict({"generator": trained.generator})
    if not any(name.endswith(".running_mean") for name in read):  # exported: the norms are in the kernels
        state = with_idle_norms(state, holder)
    check_fit(holder, state, path, prefix="generator.", has_config=config is not None)
    holder.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("generator.")})
    return trained


def _describes_a_generator(config: Any) -> bool:
    return isinstance(config, dict) and all(isinstance(config.get(name), dict) for name in GENERATOR_SECTIONS)


def check_buildable(sections: Mapping[str, Any], state: StateDict, path: str | Path) -> None:
    """An `InputError` if the config describes another network than the file's, before any of it takes memory.

    A `_target_` of others may not know how to be built without memory; its package is trusted.
    """
    for name in GENERATOR_SECTIONS:
        if not isinstance(sections.get(name), Mapping):
            raise InputError(f"{name}: this section is missing from the config; expected a mapping of settings")
    if sections["generator"].get("_target_") is not None:
        return
    for name, value in _numbers([sections["generator"], sections.get("discriminator")]):
        most = min(len(state), MOST_LAYERS) if name in LAYERS else MOST_OF_ANYTHING
        if not abs(value) <= most:
            raise InputError(f"checkpoint {path} does not fit its config: {name}={value}")
    networks: list[torch.nn.Module] = []
    try:
        with torch.device("meta"):
            networks.append(build_generator(sections["generator"], sections["training_model"]).generator)
            if isinstance(discriminator := sections.get("discriminator"), Mapping) and "_target_" not in discriminator:
                networks.append(make_discriminator(**discriminator))
    except InputError:
        raise
    except Exception as error:  # whatever a layer says of text or numbers it cannot take
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"checkpoint {path}: its config's networks cannot be built: {reason}") from error
    # Of storages: many weights may share one.
    present = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}.values())
    if sum(t.numel() for network in networks for t in network.state_dict().values()) > max(present, SPARE_WEIGHTS):
        raise InputError(f"checkpoint {path} does not fit its config, which describes a larger network")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """All in a section, each with the nearest key above it."""
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, Mapping | list):
        parts = value.items() if isinstance(value, Mapping) else ((name, one) for one in value)
        for key, one in parts:
            yield from _numbers(one, str(key))


def load_model(place: str | Path, checkpoint: str | None = None, *, trust: Collection[str] = ()) -> TrainedGenerator:
    """The generator of a run, a file of weights or a published model, wherever `place` says it is.

    place, checkpoint: as in `locate_model`. trust: as in `load_generator`.
    """
    files = locate_model(place, checkpoint)
    # Without a config the weights tell; if both are missing, report the missing config.
    needs_config = files.config is not None or not files.checkpoint.is_file()
    config = read_experiment_config(files.folder) if needs_config else None
    return load_generator(files.checkpoint, config, trust=trust)


def networks_in(names: Any) -> list[str]:
    """The networks that weights of these names belong to: what comes before the first dot."""
    return sorted({name.split(".")[0] for name in names})


def check_fit(
    model: torch.nn.Module, state: StateDict, path: str | Path, prefix: str, *, has_config: bool = True
) -> None:
    """Every weight of the model under `prefix` must be in the file, in its shape, and none too many.

    has_config: the model is that of a config, not one recognised from the weights.
    """
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(FROZEN_PREFIXES)}
    wanted = {name for name in own if name.startswith(prefix)}
    # Without `strict` a file may hold more networks than are built, but never more of the generator.
    surplus = {name for name in state.keys() - own.keys() if name.startswith(prefix or tuple(networks_of(own)))}
    shapes = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    problem = misfit(own, state, wanted | surplus | shapes)
    if problem and not has_config:
        raise InputError(
            f"checkpoint {path}: the network cannot be told from its weights alone ({problem}); give the run's folder, "
            "with its config.yaml"
        )
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


def networks_of(own: StateDict) -> set[str]:
    return {name + "." for name in networks_in(own)}
