"""From a training config (configs/training, or a `config.yaml`) to the LightningModule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn

from saicinpainting.config import resolved_sections
from saicinpainting.losses.adversarial import make_discrim_loss
from saicinpainting.losses.perceptual import make_perceptual, make_resnet_pl
from saicinpainting.metrics.evaluator import InpaintingEvaluator, make_evaluator
from saicinpainting.networks import make_discriminator
from saicinpainting.networks.ema import GeneratorAverage
from saicinpainting.networks.load import GENERATOR_OPTIONS, build_generator
from saicinpainting.training.batch_transforms import BATCH_OPTIONS, make_batch_options
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.optimizers import make_optimizers
from saicinpainting.training.parts import LossWeights, StepOptions, TrainingParts
from saicinpainting.training.visualizer import make_visualizer
from saicinpainting.utils import InputError, build, call_with_settings, check_bool, check_known_keys

Settings = Mapping[str, Any]

TRAINING_MODELS: dict[str, Callable[..., InpaintingModule]] = {
    "default": InpaintingModule,
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


def make_training_model(config: DictConfig | Settings) -> InpaintingModule:
    """Build the module that `config` describes.

    With `training_model.predict_only: true` it is the generator alone: no loss, no metric and no pretrained weights
    are needed, and only the sections `training_model` and `generator` are read.

    Raises:
        InputError: an unknown kind or key, or pretrained weights that are not at hand.
    """
    return build(TRAINING_MODELS, module_parts(config), where="training_model", default_kind="default")


def module_parts(config: DictConfig | Settings) -> dict[str, Any]:
    """The arguments of `InpaintingModule` that `config` describes, and `kind` where it is named."""
    settings = _sections(config)
    model_settings = dict(settings["training_model"])
    predict_only = bool(model_settings.pop("predict_only", False))
    check_known_keys(model_settings, MODEL_OPTIONS, where="training_model")
    generator_settings = _take(model_settings, GENERATOR_OPTIONS)
    generator, generator_input = build_generator(_section(settings, "generator"), **generator_settings)
    average = _average(generator, **_take(model_settings, AVERAGE_OPTIONS))
    return {
        "generator": generator,
        "generator_input": generator_input,
        "training": None if predict_only else _training_parts(settings),
        "step": StepOptions(**_take(model_settings, STEP_OPTIONS)),
        "batch_options": make_batch_options(**_take(model_settings, BATCH_OPTIONS)),
        "generator_average": None if predict_only else average,
        **model_settings,
    }


def _take(settings: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Moves the entries of these names out of `settings`."""
    return {name: settings.pop(name) for name in list(settings) if name in names}


def _average(
    generator: nn.Module,
    *,
    average_generator: bool = False,
    generator_avg_beta: float = 0.999,
    average_generator_start_step: int = 30000,
    average_generator_period: int = 10,
) -> GeneratorAverage | None:
    """The running average that `training_model` asks for, by its official option names."""
    check_bool("training_model.average_generator", average_generator)
    if not average_generator:
        return None
    return GeneratorAverage(
        generator,
        beta=generator_avg_beta,
        start_step=average_generator_start_step,
        period=average_generator_period,
    )


AVERAGE_OPTIONS = frozenset(inspect.signature(_average).parameters) - {"generator"}
STEP_OPTIONS = frozenset(field.name for field in fields(StepOptions))
MODEL_OPTIONS = (
    {"kind", *GENERATOR_OPTIONS, *BATCH_OPTIONS, *AVERAGE_OPTIONS, *STEP_OPTIONS}
    | inspect.signature(InpaintingModule).parameters.keys()
) - {"generator", "generator_input", "training", "step", "batch_options", "generator_average"}


def _sections(config: DictConfig | Settings) -> dict[str, Any]:
    if (config.get("training_model") or {}).get("predict_only", False):
        return resolved_sections(config, ("training_model", "generator"))
    check_known_keys(config, SECTIONS)
    return resolved_sections(config, [name for name in SECTIONS if name != "hydra"])


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
        loss_pl=_loss_module(make_perceptual, losses, "perceptual", without=("weight",)),
        loss_resnet_pl=_loss_module(make_resnet_pl, losses, "resnet_pl"),
        make_optimizers=partial(make_optimizers, _section(settings, "optimizers")),
        visualizer=make_visualizer(**_section(settings, "visualizer")),
        val_evaluator=evaluators["val"],
        test_evaluator=evaluators["test"],
        extra_evaluators=evaluators["extra"],
        gradient_clip_val=((settings.get("trainer") or {}).get("kwargs") or {}).get("gradient_clip_val"),
        seed=(settings.get("trainer") or {}).get("seed", 0),
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
