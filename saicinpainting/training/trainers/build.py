"""From a training config (configs/training, or a `config.yaml`) to the LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from saicinpainting.config import register_resolvers
from saicinpainting.evaluation import make_evaluator
from saicinpainting.evaluation.evaluator import InpaintingEvaluator
from saicinpainting.training.losses.adversarial import make_discrim_loss
from saicinpainting.training.losses.perceptual import make_perceptual_loss, make_resnet_pl
from saicinpainting.training.modules import make_discriminator, make_generator
from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule, LossWeights, TrainingParts
from saicinpainting.training.visualizers import make_visualizer
from saicinpainting.utils import InputError, build, call_with_settings, check_known_keys

Settings = Mapping[str, Any]

TRAINING_MODELS: dict[str, Callable[..., DefaultInpaintingTrainingModule]] = {
    "default": DefaultInpaintingTrainingModule,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
SECTIONS = (
    "run_title",
    "training_model",
    "losses",
    "generator",
    "discriminator",
    "optimizers",
    "visualizer",
    "evaluator",
    "data",
    "trainer",
    "location",
    "hydra",
)


def make_training_model(config: DictConfig | Settings) -> DefaultInpaintingTrainingModule:
    """Build the module that `config` describes.

    With `training_model.predict_only: true` it is the generator alone: no loss, no metric and no pretrained weights
    are needed, and only the sections `training_model` and `generator` are read.

    Raises:
        InputError: an unknown kind or key, or pretrained weights that are not at hand.
    """
    settings = _sections(config)
    model_settings = dict(settings["training_model"])
    predict_only = bool(model_settings.pop("predict_only", False))
    generator = make_generator(**_section(settings, "generator"))
    return build(
        TRAINING_MODELS,
        {**model_settings, "generator": generator, "training": None if predict_only else _training_parts(settings)},
        where="training_model",
        default_kind="default",
    )


def _sections(config: DictConfig | Settings) -> dict[str, Any]:
    """The config's sections as plain dicts. Only what is read is resolved: old configs hold foreign variables."""
    register_resolvers()
    if not OmegaConf.is_config(config):
        config = OmegaConf.create(dict(config))
    predict_only = config.get("training_model", {}).get("predict_only", False)
    if not predict_only:
        check_known_keys(config, SECTIONS)
    wanted = ("training_model", "generator") if predict_only else SECTIONS
    # A section's interpolations (${generator.…}) go through its parent, so it is resolved where it stands.
    present = [name for name in wanted if name in config and name != "hydra"]
    return {
        name: OmegaConf.to_container(config[name], resolve=True) if OmegaConf.is_config(config[name]) else config[name]
        for name in present
    }


def _section(settings: Settings, name: str) -> dict[str, Any]:
    if not isinstance(settings.get(name), dict):
        raise InputError(f"{name}: this section is missing from the config; expected a mapping of settings")
    return settings[name]


def _training_parts(settings: Settings) -> TrainingParts:
    losses = _section(settings, "losses")
    known = ("l1", "perceptual", "adversarial", "feature_matching", "resnet_pl")
    check_known_keys(losses, known, where="losses")
    evaluators = _evaluators(settings)
    return TrainingParts(
        discriminator=make_discriminator(**_section(settings, "discriminator")),
        adversarial_loss=make_discrim_loss(**_section(losses, "adversarial")),
        weights=_loss_weights(losses),
        loss_pl=_loss_module(make_perceptual_loss, losses, "perceptual", without=("weight",)),
        loss_resnet_pl=_loss_module(make_resnet_pl, losses, "resnet_pl"),
        make_optimizers=partial(_make_optimizers, _section(settings, "optimizers")),
        visualizer=make_visualizer(**_section(settings, "visualizer")),
        val_evaluator=evaluators["val"],
        test_evaluator=evaluators["test"],
        extra_evaluators=evaluators["extra"],
        gradient_clip_val=((settings.get("trainer") or {}).get("kwargs") or {}).get("gradient_clip_val"),
    )


def _loss_weights(losses: Settings) -> LossWeights:
    """The scalar weights; every key of `losses` ends here or in the constructor of its loss."""

    def l1(weight_known: float = 10, weight_missing: float = 0) -> dict[str, Any]:
        return {"l1_known": weight_known, "l1_missing": weight_missing}

    def feature_matching(weight: float = 0, pass_mask: bool = False) -> dict[str, Any]:
        return {"feature_matching": weight, "feature_matching_pass_mask": pass_mask}

    return LossWeights(
        **call_with_settings(l1, losses.get("l1") or {}, where="losses.l1"),
        **call_with_settings(feature_matching, losses.get("feature_matching") or {}, where="losses.feature_matching"),
        perceptual=(losses.get("perceptual") or {}).get("weight", 0),
        adversarial=losses["adversarial"].get("weight", 1),
    )


def _loss_module(
    make: Callable[..., nn.Module], losses: Settings, name: str, without: tuple[str, ...] = ()
) -> nn.Module | None:
    """The loss that `losses.<name>` describes, None where it is not named or its weight is 0."""
    settings = losses.get(name) or {"weight": 0}
    if settings.get("weight", 1) <= 0:
        return None
    settings = {key: value for key, value in settings.items() if key not in without}
    return call_with_settings(make, settings, where=f"losses.{name}")


def _evaluators(settings: Settings) -> dict[str, Any]:
    data, evaluator = settings.get("data") or {}, settings.get("evaluator")

    def make() -> InpaintingEvaluator | None:
        return make_evaluator(**evaluator) if evaluator else None

    extra = {name: make() for name in data.get("extra_val") or {}} if evaluator else {}
    return {"val": make(), "test": make() if data.get("visual_test") else None, "extra": extra}


def _make_optimizers(
    settings: Settings, generator: nn.Module, discriminator: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    check_known_keys(settings, ("generator", "discriminator"), where="optimizers")
    return (
        _make_optimizer(generator, _section(settings, "generator"), where="optimizers.generator"),
        _make_optimizer(discriminator, _section(settings, "discriminator"), where="optimizers.discriminator"),
    )


def _make_optimizer(network: nn.Module, settings: Settings, *, where: str) -> torch.optim.Optimizer:
    # A discriminator is frozen whenever the generator's step comes first: ask for all parameters, not the open ones.
    return build(OPTIMIZERS, {**settings, "params": list(network.parameters())}, where=where, default_kind="adamw")
