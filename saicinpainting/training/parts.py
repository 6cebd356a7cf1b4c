"""What the LightningModule is made of, besides its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from saicinpainting.metrics.evaluator import InpaintingEvaluator
from saicinpainting.networks.base import fastest_memory_format
from saicinpainting.utils import InputError, check_bool, did_you_mean

Batch = dict[str, Any]
Logs = dict[str, torch.Tensor]


class AdversarialLoss(Protocol):
    """What the module asks of `losses.adversarial`; scores (B, 1, h, w), mask (B, 1, H, W)."""

    def penalizes(self, step: int) -> bool:
        """Whether `discriminator_loss` differentiates by `real_batch` in this step."""
        ...

    def generator_loss(self, *, discr_fake_pred: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, Logs]: ...

    def discriminator_loss(
        self,
        *,
        real_batch: torch.Tensor,
        discr_real_pred: torch.Tensor,
        discr_fake_pred: torch.Tensor,
        mask: torch.Tensor,
        step: int,
    ) -> tuple[torch.Tensor, Logs]: ...


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each term of the generator's loss counts; the terms are in `generator_loss`."""

    l1_known: float = 10
    l1_missing: float = 0
    perceptual: float = 0
    adversarial: float = 10
    feature_matching: float = 100
    feature_matching_pass_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """What training needs besides the generator; a model that only predicts has none of it.

    `make_optimizers`: (generator, discriminator, fused) to their optimizers. `seed`: of random choices inside a step.
    """

    discriminator: nn.Module
    adversarial_loss: AdversarialLoss
    weights: LossWeights
    make_optimizers: Callable[[nn.Module, nn.Module, bool], tuple[torch.optim.Optimizer, torch.optim.Optimizer]]
    visualizer: Callable[..., None]
    loss_pl: nn.Module | None = None
    loss_resnet_pl: nn.Module | None = None
    val_evaluator: InpaintingEvaluator | None = None
    test_evaluator: InpaintingEvaluator | None = None
    extra_evaluators: Mapping[str, InpaintingEvaluator] = field(default_factory=dict)
    gradient_clip_val: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed, by keys of `training_model`. The defaults change no arithmetic but its rounding.

    Args:
        channels_last: keep maps with their channels side by side in memory; `auto` where convolutions are faster so.
        compile: `torch.compile` the generator, the perceptual encoder and, in steps without the R1 penalty, the
            discriminator; `auto` where that pays: a run on a GPU with
            at least `COMPILE_FROM_STEPS` steps.
        reuse_generator_output: the discriminator learns from the output that the generator's step computed, not from
            a fresh one of the generator that has just been updated. Saves a forward pass, changes the arithmetic.
        nonfinite: what to do about a gradient that is not finite, see `NonFiniteGuard`.
    """

    channels_last: bool | str = "auto"
    compile: bool | str = "auto"
    reuse_generator_output: bool = False
    nonfinite: str = "skip"

    def __post_init__(self) -> None:
        check_bool("training_model.reuse_generator_output", self.reuse_generator_output)
        for name in ("channels_last", "compile"):
            value = getattr(self, name)
            if value != "auto" and not isinstance(value, bool):
                raise InputError(
                    f"training_model.{name}: unknown value {value!r}; "
                    f"{did_you_mean(str(value), ('auto', 'true', 'false'))}"
                )

    def memory_format(self, device: torch.device) -> torch.memory_format:
        """How maps and weights lie in the memory of `device`."""
        if self.channels_last == "auto":
            return fastest_memory_format(device)
        return torch.channels_last if self.channels_last else torch.contiguous_format
