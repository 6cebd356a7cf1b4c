"""What the networks compute of a batch, and the losses that both of them are trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from saicinpainting.losses.adversarial import is_paired
from saicinpainting.losses.feature_matching import feature_matching_loss, masked_l1_loss
from saicinpainting.networks.base import at_least_float32
from saicinpainting.networks.ema import GeneratorEMA
from saicinpainting.networks.inputs import GeneratorInput, batch_rng, blend
from saicinpainting.training.batch_transforms import BatchOptions
from saicinpainting.training.compilation import uncompiled
from saicinpainting.training.parts import Batch, Logs, ModuleOptions, TrainingParts
from saicinpainting.utils import add_prefix_to_keys


class Objective(pl.LightningModule):
    """LaMa's networks and losses (Suvorov et al. 2022, section 2.3): supervised, adversarial and perceptual.

    Args:
        generator: (B, channels, H, W) of `generator_input` in, image (B, C, H, W) in [0, 1] out.
        generator_input: what the generator is given.
        training: what training needs; None for a model that only predicts.
        options: what is trained and how a step is computed.
        batch_options: what happens to a batch on its way through a step.
        generator_average: a running average of the generator's weights, which fills holes in its place outside of
            training; None for none.
    """

    # Lightning's own switch: without a trainer `trainer` is None, not an error, which torch.jit.trace would meet.
    _jit_is_scripting = True

    def __init__(
        self,
        *,
        generator: nn.Module,
        generator_input: GeneratorInput | None = None,
        training: TrainingParts | None = None,
        options: ModuleOptions | None = None,
        batch_options: BatchOptions | None = None,
        generator_average: GeneratorEMA | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two networks take turns
        self.generator = generator
        self.generator_input = generator_input or GeneratorInput()
        self.generator_average = generator_average
        self.options = options or ModuleOptions()
        self.batch_options = batch_options or BatchOptions()
        if training is not None:
            self._set_up_training(training)

    def _set_up_training(self, parts: TrainingParts) -> None:
        # The attributes' names are the prefixes of published checkpoints' keys.
        self.discriminator = parts.discriminator
        self.adversarial_loss = parts.adversarial_loss
        self.loss_pl = parts.loss_pl
        self.loss_resnet_pl = parts.loss_resnet_pl
        self.loss_extra = parts.loss_extra
        self.losses = parts.losses
        # In DDP, the networks' wrappers by name. No submodules: the weights' names stay free of them.
        self._distributed: dict[str, nn.Module] = {}

    def forward(self, batch: Batch) -> Batch:
        """Fill the hole.

        Args:
            batch: `image` (B, C, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 = hole, of any type.

        Returns:
            A new dict that also has `predicted_image`, the generator's output, and `inpainted`, the image with the
            prediction in the hole; both (B, C, H, W).
        """
        batch = {**batch, "mask": batch["mask"].to(batch["image"].dtype)}
        return self._fill(batch, self._current_generator(), batch_rng(0, 0, 0))

    @property
    def concat_mask(self) -> bool:
        """Whether the generator is given the mask; programs around the official module ask for it so."""
        return self.generator_input.concat_mask

    @property
    def add_noise_kwargs(self) -> Any:
        """The noise that the generator is given, or None; likewise."""
        return self.generator_input.add_noise_kwargs

    def _current_generator(self) -> Callable[[torch.Tensor], torch.Tensor]:
        average = self.generator_average
        return self.generator if self.training or average is None or not average.filled else average

    def _fill(self, batch: Batch, generator: Callable[[torch.Tensor], torch.Tensor], rng: torch.Generator) -> Batch:
        image, mask = batch["image"], batch["mask"]
        predicted = at_least_float32(generator(self.generator_input(image, mask, rng)))
        return {**batch, "predicted_image": predicted, "inpainted": blend(predicted, image, mask)}

    def generator_loss(self, batch: Batch) -> tuple[torch.Tensor, Logs]:
        """L1 + adversarial + feature matching + perceptual losses (paper, eq. 6), weighted, and each term."""
        image, mask, predicted = batch["image"], batch["mask"], batch[self.options.image_to_discriminator]
        losses, options = self.losses, self.batch_options
        supervised = options.weigh_mask(mask) if self.training and options.weigh_mask else mask
        l1 = masked_l1_loss(predicted, image, supervised, losses.l1.weight_known, losses.l1.weight_missing)
        logs = {"gen_l1": l1}
        if self.loss_pl is not None:
            logs["gen_pl"] = self.loss_pl(predicted, image, mask=supervised).sum() * losses.perceptual_weight
        adversarial_logs: Logs = {}
        if losses.adversarial_weight > 0 or losses.feature_matching.weight > 0:
            terms, adversarial_logs = self._discriminator_terms(batch, supervised)
            logs |= terms
        if self.loss_resnet_pl is not None:
            logs["gen_resnet_pl"] = self.loss_resnet_pl(predicted, image)
        for name, loss in self.loss_extra.items():
            logs[f"gen_{name}"] = losses.extra_weights[name] * loss(predicted, image, supervised)
        total = torch.stack(list(logs.values())).sum()
        return total, {**logs, **add_prefix_to_keys(adversarial_logs, "adv_")}

    def _discriminator_terms(self, batch: Batch, supervised: torch.Tensor) -> tuple[Logs, Logs]:
        """The generator's losses on scores and maps of the discriminator, and logs of the former.

        supervised: (B, 1, H, W), the mask or what weighs the losses instead.
        """
        feature_matching = self.losses.feature_matching
        with torch.no_grad():
            real_score, real_features = self.discriminator(batch["image"])
        fake_score, fake_features = self.discriminator(batch[self.options.image_to_discriminator])
        scores = {"discr_fake_pred": at_least_float32(fake_score)}
        if is_paired(self.adversarial_loss):
            scores["discr_real_pred"] = at_least_float32(real_score)
        mask = supervised if self.batch_options.distance_weighted_mask_for_discr else batch["mask"]
        adversarial, adversarial_logs = self.adversarial_loss.generator_loss(**scores, mask=mask)
        terms = {"gen_adv": adversarial}
        if feature_matching.weight > 0:
            terms["gen_fm"] = feature_matching.weight * feature_matching_loss(
                fake_features, real_features, mask=supervised if feature_matching.pass_mask else None
            )
        return terms, adversarial_logs

    def discriminator_loss(self, batch: Batch, step: int = 0) -> tuple[torch.Tensor, Logs]:
        """Real and fake scores and, in the steps that have them, the penalties, on the detached prediction."""
        # One pass through DDP's wrapper tells it of the step; the gradients of both passes reach it together.
        discriminator = self._distributed.get("discriminator", self.discriminator)
        penalized, paired = self.adversarial_loss.penalizes(step), is_paired(self.adversarial_loss)
        real = batch["image"].detach().requires_grad_(penalized)
        fake = batch[self.options.image_to_discriminator].detach().requires_grad_(penalized and paired)
        with uncompiled(penalized):  # a compiled network has no second derivative
            real_score, _ = discriminator(real)
            fake_score, _ = self.discriminator(fake)
        images = {"real_batch": real, "fake_batch": fake} if paired else {"real_batch": real}
        total, logs = self.adversarial_loss.discriminator_loss(
            **images,
            discr_real_pred=at_least_float32(real_score),
            discr_fake_pred=at_least_float32(fake_score),
            mask=batch["mask"],
            step=step,
        )
        return total, {"discr_adv": total, **add_prefix_to_keys(logs, "adv_")}
