"""From a training config (configs/training, or a `config.yaml`) to the LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig
from torch import nn

from saicinpainting.config import GENERATOR_SECTIONS, resolved_sections, without_ignored_losses
from saicinpainting.losses.adversarial import make_discrim_loss
from saicinpainting.losses.focal_frequency import FocalFrequencyLoss
from saicinpainting.losses.perceptual import make_perceptual, make_resnet_pl
from saicinpainting.metrics.evaluator import InpaintingEvaluator, make_evaluator
from saicinpainting.networks import make_discriminator
from saicinpainting.networks.ema import EMAOptions, GeneratorEMA
from saicinpainting.networks.fourier import FourierOptions
from saicinpainting.networks.inputs import GeneratorInput
from saicinpainting.networks.load import build_generator, image_channels_of
from saicinpainting.schema import known_keys, read_section
from saicinpainting.training.batch_transforms import BatchOptions
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.optimizers import make_optimizers
from saicinpainting.training.parts import ImageLoss, Losses, MaskedImageLoss, ModuleOptions, TrainingParts
from saicinpainting.training.schedules import Schedules
from saicinpainting.training.visualizer import make_visualizer
from saicinpainting.utils import InputError, build, build_target, call_with_settings, check_interface, check_known_keys

Settings = Mapping[str, Any]

TRAINING_MODEL = (ModuleOptions, GeneratorInput, FourierOptions, BatchOptions, EMAOptions)
"""What the config section `training_model` is made of."""
EXTRA_LOSSES = {"focal_frequency": FocalFrequencyLoss}
"""Kinds of `losses.extra`."""
SECTIONS = (
    *("run_title", "training_model", "losses", "generator", "discriminator", "optimizers", "visualizer"),
    *("evaluator", "data", "trainer", "location", "logger", "callbacks", "hydra"),
)


def make_training_model(config: DictConfig | Settings) -> InpaintingModule:
    """Build the module that `config` describes.

    With `training_model.predict_only: true` it is the generator alone: no loss, no metric and no pretrained weights
    are needed, and only the sections `training_model` and `generator` are read.

    Raises:
        InputError: an unknown kind or key, or pretrained weights that are not at hand.
    """
    return InpaintingModule(**module_parts(config))


def module_parts(config: DictConfig | Settings) -> dict[str, Any]:
    """The arguments of `InpaintingModule` that `config` describes."""
    settings = sections_of(config)
    model_settings = _section(settings, "training_model")
    check_known_keys(model_settings, known_keys(*TRAINING_MODEL), where="training_model")
    read = partial(read_section, settings=model_settings, where="training_model", only=False)
    options, averaging = read(ModuleOptions), read(EMAOptions)
    generator, generator_input = build_generator(_section(settings, "generator"), model_settings)
    parts = {"generator": generator, "generator_input": generator_input, "options": options}
    if options.predict_only:
        return parts
    return {
        **parts,
        "training": _training_parts(settings),
        "batch_options": read(BatchOptions),
        "generator_average": GeneratorEMA(generator, averaging) if averaging.average_generator else None,
    }


def sections_of(config: DictConfig | Settings) -> dict[str, Any]:
    """What `make_training_model` reads of a config, as plain values."""
    if (config.get("training_model") or {}).get("predict_only", False):
        return resolved_sections(config, GENERATOR_SECTIONS)
    check_known_keys(config, SECTIONS)
    return resolved_sections(config, [name for name in SECTIONS if name != "hydra"])


def _section(settings: Settings, name: str) -> dict[str, Any]:
    if not isinstance(settings.get(name), dict):
        raise InputError(f"{name}: this section is missing from the config; expected a mapping of settings")
    return settings[name]


def _training_parts(settings: Settings) -> TrainingParts:
    losses = read_section(Losses, without_ignored_losses(_section(settings, "losses")), where="losses")
    perceptual, resnet_pl = dict(losses.perceptual or {}), losses.resnet_pl or {"weight": 0}
    perceptual.pop("weight", None)  # the module weighs it
    data, trainer = settings.get("data") or {}, settings.get("trainer") or {}
    make = partial(_evaluator, settings.get("evaluator"))
    discriminator = _section(settings, "discriminator")
    _check_channels(image_channels_of(_section(settings, "generator")), discriminator, losses, settings)
    return TrainingParts(
        discriminator=make_discriminator(**discriminator),
        adversarial_loss=make_discrim_loss(**losses.adversarial),
        losses=losses,
        loss_pl=make_perceptual(**perceptual) if losses.perceptual_weight > 0 else None,
        loss_resnet_pl=_resnet_pl(resnet_pl) if resnet_pl.get("weight", 1) > 0 else None,
        loss_extra=nn.ModuleDict({name: _extra_loss(name, loss) for name, loss in (losses.extra or {}).items()}),
        make_optimizers=partial(make_optimizers, _section(settings, "optimizers")),
        schedules=Schedules(_section(settings, "optimizers"), resume_lr=trainer.get("resume_lr", False)),
        visualizer=make_visualizer(**_section(settings, "visualizer")),
        val_evaluator=make(),
        test_evaluator=make() if data.get("visual_test") else None,
        extra_evaluators={name: made for name in data.get("extra_val") or {} if (made := make()) is not None},
        gradient_clip_val=(trainer.get("kwargs") or {}).get("gradient_clip_val"),
        seed=trainer.get("seed", 0),
        config={name: settings[name] for name in GENERATOR_SECTIONS},
    )


def _check_channels(channels: int, discriminator: Settings, losses: Losses, settings: Settings) -> None:
    """An `InputError` for parts that cannot take images of so many channels."""
    images = f"the images have {channels} channels (generator.output_nc)"
    if discriminator.get("_target_") is None and discriminator.get("input_nc", channels) != channels:
        raise InputError(f"discriminator.input_nc={discriminator['input_nc']}: {images}; set it to {channels}")
    if channels in (1, 3):  # one is repeated
        return
    resnet_pl = losses.resnet_pl or {"weight": 0}
    ours = {"losses.resnet_pl.weight=0": resnet_pl.get("_target_") is None and resnet_pl.get("weight", 1) > 0}
    perceptual = losses.perceptual or {}
    ours["losses.perceptual.weight=0"] = perceptual.get("_target_") is None and losses.perceptual_weight > 0
    evaluator = settings.get("evaluator") or {}
    for name in ("lpips", "fid") if evaluator and evaluator.get("_target_") is None else ():
        ours[f"evaluator.{name}=false"] = evaluator.get(name, True)
    for remedy, used in ours.items():
        if used:
            key = remedy.partition("=")[0].removesuffix(".weight")
            raise InputError(f"{key}: its network takes 1 or 3 channels, but {images}; set {remedy}")


def _resnet_pl(settings: dict[str, Any]) -> nn.Module:
    if settings.get("_target_") is not None:
        return build_target(settings, where="losses.resnet_pl", interface=ImageLoss)
    return call_with_settings(make_resnet_pl, settings, where="losses.resnet_pl")


def _extra_loss(name: str, settings: dict[str, Any]) -> nn.Module:
    where = f"losses.extra.{name}"
    if not isinstance(settings, dict) or not {"kind", "_target_"} & settings.keys():
        raise InputError(
            f"{where}: expected a mapping with _target_, the class of a loss, or kind: {', '.join(EXTRA_LOSSES)}, "
            f"got {settings!r}"
        )
    own = {key: value for key, value in settings.items() if key != "weight"}
    loss: Any = build(EXTRA_LOSSES, own, where=where, interface=MaskedImageLoss)
    check_interface(loss, nn.Module, where=where, name=str(settings.get("_target_") or settings.get("kind")))
    return cast(nn.Module, loss)


def _evaluator(settings: Settings | None) -> InpaintingEvaluator | None:
    return make_evaluator(**settings) if settings else None
