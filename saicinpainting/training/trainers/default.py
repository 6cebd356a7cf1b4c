"""The one LightningModule: a generator step, then a discriminator step, for every batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from saicinpainting.checkpoint import FROZEN_PREFIXES, without_prefixes
from saicinpainting.evaluation.evaluator import InpaintingEvaluator, results_table
from saicinpainting.training.losses.feature_matching import feature_matching_loss, masked_l1_loss
from saicinpainting.training.visualizers import visualize_batch
from saicinpainting.utils import InputError, add_prefix_to_keys, flatten_dict, set_requires_grad

LOGGER = logging.getLogger(__name__)

Batch = dict[str, Any]
Logs = dict[str, torch.Tensor]

# Pictures of this many batches of a validation set go to TensorBoard; the visualizer's folder gets all of them.
TENSORBOARD_PICTURES = 4


class AdversarialLoss(Protocol):
    """What the module asks of `losses.adversarial`; scores (B, 1, h, w), mask (B, 1, H, W)."""

    def generator_loss(self, *, discr_fake_pred: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, Logs]: ...

    def discriminator_loss(
        self,
        *,
        real_batch: torch.Tensor,
        discr_real_pred: torch.Tensor,
        discr_fake_pred: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, Logs]: ...


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each term of the generator's loss counts; spec of the terms in `generator_loss`."""

    l1_known: float = 10
    l1_missing: float = 0
    perceptual: float = 0
    adversarial: float = 10
    feature_matching: float = 100
    feature_matching_pass_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """What training needs besides the generator; a model that only predicts has none of it."""

    discriminator: nn.Module
    adversarial_loss: AdversarialLoss
    weights: LossWeights
    make_optimizers: Callable[[nn.Module, nn.Module], tuple[torch.optim.Optimizer, torch.optim.Optimizer]]
    visualizer: Callable[..., None]
    loss_pl: nn.Module | None = None
    loss_resnet_pl: nn.Module | None = None
    val_evaluator: InpaintingEvaluator | None = None
    test_evaluator: InpaintingEvaluator | None = None
    extra_evaluators: Mapping[str, InpaintingEvaluator] = field(default_factory=dict)
    gradient_clip_val: float | None = None


class DefaultInpaintingTrainingModule(pl.LightningModule):
    """LaMa's training (Suvorov et al. 2022, section 2.3): supervised, adversarial and perceptual losses.

    Args:
        generator: (B, 4, H, W) masked image and mask in, (B, 3, H, W) picture in [0, 1] out.
        training: what training needs; None for a model that only predicts.
        concat_mask: give the generator the mask as a fourth channel.
        image_to_discriminator: the picture the losses see, `predicted_image` or `inpainted`.
        visualize_each_iters: pictures of the batch every so many batches.
        store_discr_outputs_for_vis: put the discriminator's score maps into these pictures.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        training: TrainingParts | None = None,
        concat_mask: bool = True,
        image_to_discriminator: str = "predicted_image",
        visualize_each_iters: int = 100,
        store_discr_outputs_for_vis: bool = False,
    ) -> None:
        super().__init__()
        if image_to_discriminator not in ("predicted_image", "inpainted"):
            raise InputError(
                "training_model.image_to_discriminator: expected predicted_image or inpainted, "
                f"got {image_to_discriminator!r}"
            )
        self.automatic_optimization = False
        self.generator = generator
        self.concat_mask = concat_mask
        self.image_to_discriminator = image_to_discriminator
        self.visualize_each_iters = visualize_each_iters
        self.store_discr_outputs_for_vis = store_discr_outputs_for_vis
        if training is not None:
            self._set_up_training(training)

    def _set_up_training(self, parts: TrainingParts) -> None:
        # The attributes' names are the prefixes of published checkpoints' keys.
        self.discriminator = parts.discriminator
        self.adversarial_loss = parts.adversarial_loss
        self.loss_pl = parts.loss_pl
        self.loss_resnet_pl = parts.loss_resnet_pl
        self.val_evaluator = parts.val_evaluator
        self.test_evaluator = parts.test_evaluator
        self.extra_evaluators = nn.ModuleDict(parts.extra_evaluators)
        self.loss_weights = parts.weights
        self.gradient_clip_val = parts.gradient_clip_val
        self.visualizer = parts.visualizer
        self._make_optimizers = parts.make_optimizers
        self._grad_norm = torch.zeros(())  # of the latest step, before clipping

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        return list(self._make_optimizers(self.generator, self.discriminator)), []

    # ---- what the networks compute ------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Batch:
        """Fill the hole.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1] and `mask` (B, 1, H, W), 1 = hole.

        Returns:
            A new dict that also has `predicted_image`, the generator's output, and `inpainted`, the image with the
            prediction in the hole; both (B, 3, H, W).
        """
        image, mask = batch["image"], batch["mask"]
        masked_image = image * (1 - mask)
        predicted = self.generator(torch.cat([masked_image, mask], dim=1) if self.concat_mask else masked_image)
        return {**batch, "predicted_image": predicted, "inpainted": mask * predicted + (1 - mask) * image}

    def generator_loss(self, batch: Batch) -> tuple[torch.Tensor, Logs]:
        """L1 + adversarial + feature matching + perceptual losses (paper, eq. 6), weighted, and each term."""
        image, mask, predicted = batch["image"], batch["mask"], batch[self.image_to_discriminator]
        weights = self.loss_weights
        logs = {"gen_l1": masked_l1_loss(predicted, image, mask, weights.l1_known, weights.l1_missing)}
        if self.loss_pl is not None:
            logs["gen_pl"] = self.loss_pl(predicted, image, mask=mask).sum() * weights.perceptual
        _, real_features = self.discriminator(image)
        fake_score, fake_features = self.discriminator(predicted)
        logs["gen_adv"], adversarial_logs = self.adversarial_loss.generator_loss(discr_fake_pred=fake_score, mask=mask)
        if weights.feature_matching > 0:
            mask_for_features = mask if weights.feature_matching_pass_mask else None
            logs["gen_fm"] = weights.feature_matching * feature_matching_loss(
                fake_features, real_features, mask=mask_for_features
            )
        if self.loss_resnet_pl is not None:
            logs["gen_resnet_pl"] = self.loss_resnet_pl(predicted, image)
        total = torch.stack(list(logs.values())).sum()
        return total, {**logs, **add_prefix_to_keys(adversarial_logs, "adv_")}

    def discriminator_loss(self, batch: Batch) -> tuple[torch.Tensor, Logs]:
        """Real and fake scores and the R1 penalty, on the detached prediction."""
        real = batch["image"].detach().requires_grad_(True)
        real_score, _ = self.discriminator(real)
        fake_score, _ = self.discriminator(batch[self.image_to_discriminator].detach())
        total, logs = self.adversarial_loss.discriminator_loss(
            real_batch=real, discr_real_pred=real_score, discr_fake_pred=fake_score, mask=batch["mask"]
        )
        return total, {"discr_adv": total, **add_prefix_to_keys(logs, "adv_")}

    # ---- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        logs, filled = self._generator_step(batch, generator_optimizer)
        if self.loss_weights.adversarial > 0:
            logs |= self._discriminator_step(batch, discriminator_optimizer.optimizer)
        logs = {name: value.detach() for name, value in logs.items()}
        self.log_dict(add_prefix_to_keys(logs, "train_"), batch_size=len(batch["image"]))
        self.log("l1", logs["gen_l1"], prog_bar=True, logger=False, batch_size=len(batch["image"]))
        if batch_idx % self.visualize_each_iters == 0:
            self._visualize(filled, batch_idx, "train")

    def _generator_step(self, batch: Batch, optimizer: Any) -> tuple[Logs, Batch]:
        set_requires_grad(self.generator, True)
        set_requires_grad(self.discriminator, False)
        batch = self(batch)
        loss, logs = self.generator_loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {**logs, "gen_grad_norm": self._grad_norm}, batch

    def _discriminator_step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Logs:
        set_requires_grad(self.discriminator, True)
        with torch.no_grad():  # a fresh forward of the generator that has just been updated
            batch = self(batch)
        loss, logs = self.discriminator_loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        # Past Lightning's wrapper, which would count this as one more global step: steps are batches here, as in
        # published checkpoints.
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)
        return {**logs, "discr_grad_norm": self._grad_norm}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradient to at most `gradient_clip_val`; float16's loss scale has been taken out by now."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val or float("inf"))

    # ---- validation ---------------------------------------------------------------------------------------------

    def _val_titles(self) -> list[str]:
        """Names of the validation sets, in the order of their loaders."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.val_titles

    def _evaluator(self, title: str) -> InpaintingEvaluator | None:
        evaluators: dict[str, Any] = {"val": self.val_evaluator, "test": self.test_evaluator}
        evaluators |= {f"extra_val_{name}": evaluator for name, evaluator in self.extra_evaluators.items()}
        return evaluators.get(title)

    def on_validation_start(self) -> None:
        """Evaluate on every rank what the checkpoint will hold: batch norm's running statistics of rank 0."""
        if self.trainer.world_size > 1:
            for buffer in [*self.generator.buffers(), *self.discriminator.buffers()]:
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        title = self._val_titles()[dataloader_idx]
        batch = self(batch)
        _, logs = self.generator_loss(batch)
        self.log_dict(
            add_prefix_to_keys(logs, f"{title}_"),
            batch_size=len(batch["image"]),
            add_dataloader_idx=False,
            sync_dist=True,
        )
        evaluator = self._evaluator(title)
        if evaluator is not None:
            evaluator.update(batch)
        if title == "test" or batch_idx % self.visualize_each_iters == 0:
            self._visualize(batch, batch_idx, title)

    def on_validation_epoch_end(self) -> None:
        for title in self._val_titles():
            evaluator = self._evaluator(title)
            if evaluator is None:
                continue
            results = evaluator.compute()
            evaluator.reset()
            if not results:
                continue
            LOGGER.info(
                "%s metrics after epoch %d, %d steps:\n%s",
                title,
                self.current_epoch,
                self.global_step,
                results_table(results).to_string(),
            )
            for name, value in flatten_dict(results).items():
                # Official naming: what is no total starts with an underscore and so sorts to the end.
                hidden = "" if "total" in name or title.startswith("extra_val") else "_"
                self.log(f"{hidden}{title}_{name}", float(value))

    # ---- pictures -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _visualize(self, batch: Batch, batch_idx: int, title: str) -> None:
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        if self.store_discr_outputs_for_vis and self.loss_weights.adversarial > 0:
            batch = {**batch, **self._discriminator_outputs(batch)}
        self.visualizer(self.current_epoch, batch_idx, batch, suffix=f"_{title}")
        board: Any = getattr(self.logger, "experiment", None)
        number = batch_idx if title != "train" else 0
        if hasattr(board, "add_image") and number < TENSORBOARD_PICTURES:
            picture = visualize_batch(batch, key_order=("image", "predicted_image", "inpainted"))
            board.add_image(f"{title}/{number}", picture, self.global_step, dataformats="HWC")

    def _discriminator_outputs(self, batch: Batch) -> Batch:
        was_training = self.discriminator.training
        self.discriminator.eval()  # a picture must not move the running statistics
        size = batch["image"].shape[2:]
        scores = {
            f"discr_output_{name}": F.interpolate(self.discriminator(batch[key])[0], size=size, mode="nearest")
            for name, key in (("real", "image"), ("fake", "predicted_image"))
        }
        self.discriminator.train(was_training)
        return scores

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pretrained networks are constants: they stay out of the file."""
        checkpoint["state_dict"] = without_prefixes(checkpoint["state_dict"], FROZEN_PREFIXES)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the constants that the file leaves out, or holds in another version, from this model."""
        own = {name: t for name, t in self.state_dict().items() if name.startswith(FROZEN_PREFIXES)}
        checkpoint["state_dict"] = {**without_prefixes(checkpoint["state_dict"], FROZEN_PREFIXES), **own}
