"""What the LightningModule is made of, besides its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn

from saicinpainting.losses.adversarial import AnyAdversarialLoss
from saicinpainting.metrics.evaluator import InpaintingEvaluator
from saicinpainting.networks.base import fastest_memory_format
from saicinpainting.training.guard import Policy
from saicinpainting.training.schedules import Schedules
from saicinpainting.utils import InputError, check_whole

Batch = dict[str, Any]
Logs = dict[str, torch.Tensor]


class ImageLoss(Protocol):
    """What `losses.resnet_pl` has to have; images (B, 3, H, W) in [0, 1]."""

    def forward(self, predicted: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """A scalar, weighed."""
        ...


class MaskedImageLoss(Protocol):
    """What a loss of `losses.extra` has to have, besides being an `nn.Module`."""

    def forward(self, predicted: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1], mask (B, 1, H, W), 1 = hole; to a scalar, which its weight multiplies."""
        ...


@dataclass(frozen=True, kw_only=True)
class L1Weights:
    """Weights of the L1 loss.

    Args:
        weight_known: of pixels outside the hole.
        weight_missing: of pixels in the hole.
    """

    weight_known: float = 10
    weight_missing: float = 0


@dataclass(frozen=True, kw_only=True)
class FeatureMatching:
    """The feature matching loss: discriminator features of the result near those of the image.

    Args:
        weight: 0 switches it off.
        pass_mask: compare features outside the hole alone.
    """

    weight: float = 0
    pass_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Config section `losses`: the terms of the generator's loss (paper, eq. 6). A weight of 0 switches a term off.

    Args:
        adversarial: `kind` (`r1`, `bce`, `relativistic`), `weight` (1 unless set) and the settings of that kind.
        l1: between result and image, pixel by pixel.
        feature_matching: discriminator features of the result near those of the image.
        perceptual: `kind` (`vgg19`, `efficientnet_lite`), `weight` (0 unless set) and the settings of that kind.
        resnet_pl: the high receptive field perceptual loss: `weight` and the settings of `make_resnet_pl`.
        extra: further terms by name, each with `kind` (`focal_frequency`) or `_target_`, `weight` (1 unless set) and
            its settings.
    """

    adversarial: dict[str, Any]
    l1: L1Weights = L1Weights()
    feature_matching: FeatureMatching = FeatureMatching()
    perceptual: dict[str, Any] | None = None
    resnet_pl: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        weights: dict[str, Any] = {f"extra.{name}": weight for name, weight in self.extra_weights.items()}
        for name in ("adversarial", "perceptual", "resnet_pl"):
            weights[name] = (getattr(self, name) or {}).get("weight", 1)
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise InputError(f"losses.{name}.weight: expected a number, got {weight!r}")

    @property
    def extra_weights(self) -> dict[str, float]:
        return {name: loss.get("weight", 1) for name, loss in (self.extra or {}).items() if isinstance(loss, dict)}

    @property
    def adversarial_weight(self) -> float:
        return self.adversarial.get("weight", 1)

    @property
    def perceptual_weight(self) -> float:
        return (self.perceptual or {}).get("weight", 0)


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """What training needs besides the generator; a model that only predicts has none of it.

    `make_optimizers`: (generator, discriminator, fused) to their optimizers. `seed`: of random choices inside a step.
    `config`: the sections that a file of weights needs to be read without its run's folder.
    """

    discriminator: nn.Module
    adversarial_loss: AnyAdversarialLoss
    losses: Losses
    make_optimizers: Callable[[nn.Module, nn.Module, bool], tuple[torch.optim.Optimizer, torch.optim.Optimizer]]
    visualizer: Callable[..., None]
    schedules: Schedules = field(default_factory=lambda: Schedules({}))
    loss_pl: nn.Module | None = None
    loss_resnet_pl: nn.Module | None = None
    loss_extra: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    val_evaluator: InpaintingEvaluator | None = None
    test_evaluator: InpaintingEvaluator | None = None
    extra_evaluators: Mapping[str, InpaintingEvaluator] = field(default_factory=dict)
    gradient_clip_val: float | None = None
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (clip := self.gradient_clip_val) is not None and (not isinstance(clip, (int, float)) or clip < 0):
            raise InputError(f"trainer.kwargs.gradient_clip_val: expected 0 or more, or null, got {clip!r}")


@dataclass(frozen=True, kw_only=True)
class ModuleOptions:
    """What is trained and how a step is computed: keys of the config section `training_model`.

    Args:
        kind: the one training module there is.
        predict_only: build the generator alone, without losses, metrics and pretrained weights.
        image_to_discriminator: the image that the losses see, the generator's output or the one blended with the image.
        visualize_each_iters: batches from one that is drawn to the next.
        store_discr_outputs_for_vis: draw the discriminator's score maps as well.
        channels_last: keep maps with their channels side by side in memory; `auto` where convolutions are faster so.
        compile: `torch.compile` the generator, the perceptual encoder and, in steps without a gradient penalty, the
            discriminator; `auto` on a GPU in a run of at least 5,000 steps.
        reuse_generator_output: the discriminator learns from the output that the generator's step computed, not from
            a fresh one of the generator that has just been updated. Saves a forward pass, changes the arithmetic.
        checkpoint_blocks: compute the generator's residual blocks twice in place of keeping their maps for the backward
            pass (Chen et al. 2016): larger crops fit on a card, the numbers stay the same. Not with `compile`.
        frozen_parts: layers of the networks that are not trained, by their names in a checkpoint, with numbers from and
            to (`generator.model.0-4`) or `*` (`generator.model.*.conv1`). Their batch norms keep their statistics.
        discriminator_warmup_steps: in so many first steps the discriminator trains alone and the generator stays as it
            is, for fine-tuning a generator whose discriminator is not at hand.
        frozen_batch_norm: the generator's batch norms keep the running statistics that it starts with, for fine-tuning
            with few images a step, whose own statistics are noise.
        nonfinite: after a gradient that is not finite `skip` the batch, `stop` the run, or `ignore` it.
    """

    kind: Literal["default"] = "default"
    predict_only: bool = False
    image_to_discriminator: Literal["predicted_image", "inpainted"] = "predicted_image"
    visualize_each_iters: int = 100
    store_discr_outputs_for_vis: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    reuse_generator_output: bool = False
    checkpoint_blocks: bool = False
    frozen_parts: list[str] = field(default_factory=list)
    discriminator_warmup_steps: int = 0
    frozen_batch_norm: bool = False
    nonfinite: Policy = "skip"

    def __post_init__(self) -> None:
        if self.checkpoint_blocks and self.compile is True:
            raise InputError("training_model.checkpoint_blocks: not with compile=true; set one of them to false")
        check_whole("training_model.discriminator_warmup_steps", self.discriminator_warmup_steps)
        if self.visualize_each_iters < 1:
            key = "training_model.visualize_each_iters"
            raise InputError(
                f"{key}: expected 1 or more, got {self.visualize_each_iters}; visualizer.kind=noop draws nothing"
            )

    def memory_format(self, device: torch.device) -> torch.memory_format:
        """How maps and weights lie in the memory of `device`."""
        if self.channels_last == "auto":
            return fastest_memory_format(device)
        return torch.channels_last if self.channels_last else torch.contiguous_format
