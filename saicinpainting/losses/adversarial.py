"""Adversarial losses.

A score is high where the discriminator takes the patch for real. With `mask_as_fake_target` only patches
inside the hole count as fake; those outside show real pixels and are to be taken for real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from saicinpainting.utils import InputError, build, check_interface, did_you_mean

MASK_SCALE_MODES = ("nearest", "maxpool")
WHERE = "losses.adversarial"


@dataclass(kw_only=True)
class _MaskedLoss:
    """A mask at the size of the score map: refused unless `allow_scale_mask` (`mask_scale_mode`: how)."""

    weight: float = 1
    mask_as_fake_target: bool
    allow_scale_mask: bool = False
    mask_scale_mode: str = "nearest"

    def __post_init__(self) -> None:
        if self.mask_scale_mode not in MASK_SCALE_MODES:
            raise InputError(
                f"{WHERE}.mask_scale_mode: unknown mode {self.mask_scale_mode!r}; "
                f"{did_you_mean(self.mask_scale_mode, MASK_SCALE_MODES)}"
            )

    def scale_mask(self, mask: Tensor, score: Tensor) -> Tensor:
        """mask: (B, 1, H, W) -> (B, 1, h, w), the size of score: (B, 1, h, w)."""
        size = score.shape[-2:]
        if mask.shape[-2:] == size:
            return mask
        if not self.allow_scale_mask:
            raise InputError(
                f"{WHERE}: the score map is {tuple(size)}, the mask {tuple(mask.shape[-2:])}; "
                f"set {WHERE}.allow_scale_mask=true to resize the mask"
            )
        if self.mask_scale_mode == "maxpool":
            return F.adaptive_max_pool2d(mask, (size[0], size[1]))
        return F.interpolate(mask, size=size, mode="nearest")


@dataclass(kw_only=True)
class _PenalizedLoss(_MaskedLoss):
    """Settings of the losses with a gradient penalty, which say what they mean."""

    gp_coef: float = 5
    gp_interval: int = 1
    mask_as_fake_target: bool = False
    extra_mask_weight_for_gen: float = 0
    use_unmasked_for_gen: bool = True
    use_unmasked_for_discr: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_unmasked_for_discr and not self.use_unmasked_for_gen:
            raise InputError(
                f"{WHERE}: use_unmasked_for_gen=false needs use_unmasked_for_discr=false, else the "
                "discriminator learns from pixels that the generator is not told about"
            )
        if self.mask_as_fake_target and not self.use_unmasked_for_discr:
            raise InputError(
                f"{WHERE}: mask_as_fake_target=true needs use_unmasked_for_discr=true, "
                "because it says what the pixels outside the hole count as"
            )
        if self.gp_interval < 1:
            raise InputError(f"{WHERE}.gp_interval: expected 1 (every step) or more, got {self.gp_interval}")

    def penalizes(self, step: int) -> bool:
        """Whether the penalty is computed in this step: the images behind the scores need a gradient then."""
        return step % self.gp_interval == 0

    def _weighted_generator_loss(self, loss: Tensor, mask: Tensor) -> Tensor:
        """Mean of a loss by patch, (B, 1, h, w), with the patches' weights and the loss's; mask: (B, 1, H, W)."""
        if not self.use_unmasked_for_gen:
            loss = loss * self.scale_mask(mask, loss)
        elif self.mask_as_fake_target and self.extra_mask_weight_for_gen > 0:
            loss = loss * (1 + self.scale_mask(mask, loss) * self.extra_mask_weight_for_gen)
        return loss.mean() * self.weight


@dataclass(kw_only=True)
class NonSaturatingWithR1(_PenalizedLoss):
    """Non-saturating GAN loss (Goodfellow et al. 2014) with R1 penalty (Mescheder et al. 2018, eq. 9).

    `weight` multiplies the generator's term only. With `gp_interval` k the penalty is computed in every k-th step and
    counts k times, before the gradient is clipped (lazy regularisation, Karras et al. 2020, section 3.1).
    `extra_mask_weight_for_gen` raises the generator's weight of the hole to 1 + that, where `mask_as_fake_target`.
    `use_unmasked_for_gen` and `use_unmasked_for_discr` say whether fake patches outside the hole count at all.
    """

    def generator_loss(self, *, discr_fake_pred: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """weight · mean softplus(-D(fake)). discr_fake_pred: (B, 1, h, w); mask: (B, 1, H, W), 1 = hole."""
        return self._weighted_generator_loss(F.softplus(-discr_fake_pred), mask), {}

    def discriminator_loss(
        self, *, real_batch: Tensor, discr_real_pred: Tensor, discr_fake_pred: Tensor, mask: Tensor, step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of softplus(-D(real)) + gp_coef · R1 + the fakes' term.

        real_batch: (B, 3, H, W), with gradient where `penalizes(step)`, the images behind discr_real_pred:
        (B, 1, h, w); discr_fake_pred: (B, 1, h, w); mask: (B, 1, H, W), 1 = hole. The logged penalty is that of one
        step, without its weight of `gp_interval`, and missing in the steps between.
        """
        per_patch = F.softplus(-discr_real_pred) + self._fake_term(discr_fake_pred, mask)
        logs = _mean_scores(discr_real_pred, discr_fake_pred)
        if self.penalizes(step):
            penalty = self.gp_coef * r1_penalty(discr_real_pred, real_batch)
            per_patch = per_patch + penalty * self.gp_interval
            logs["discr_real_gp"] = penalty.detach()
        return per_patch.mean(), logs

    def _fake_term(self, discr_fake_pred: Tensor, mask: Tensor) -> Tensor:
        loss = F.softplus(discr_fake_pred)
        if self.use_unmasked_for_discr and not self.mask_as_fake_target:
            return loss
        mask = self.scale_mask(mask, discr_fake_pred)
        if not self.mask_as_fake_target:
            return loss * mask
        return loss * mask + F.softplus(-discr_fake_pred) * (1 - mask)


@dataclass(kw_only=True)
class RelativisticWithR1R2(_PenalizedLoss):
    """Relativistic pairing GAN loss with R1 and R2 penalties (R3GAN: Huang et al. 2024, section 2, arXiv 2501.05441).

    A fake patch is scored against the patch at its place in the image that it was made from. The relativistic pairing
    is that of Jolicoeur-Martineau 2018; R1 and R2 are those of Mescheder et al. 2018, eq. 9 and 10. `gp_coef` is the
    γ/2 of these papers, for both penalties, as it is for R1 alone in `NonSaturatingWithR1`.

    `weight` and `gp_interval` are as in `NonSaturatingWithR1`. `mask_as_fake_target` is not R3GAN's: a pair outside the
    hole is of two real patches, and the discriminator learns to rank neither above the other (a target of 1/2). Such
    patches cost at least ln 2. `extra_mask_weight_for_gen` raises the generator's weight of the hole to 1 + that, where
    `mask_as_fake_target`. `use_unmasked_for_gen` and `use_unmasked_for_discr` say whether pairs outside the hole count.
    """

    paired: ClassVar[bool] = True

    def generator_loss(
        self, *, discr_fake_pred: Tensor, discr_real_pred: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """weight · mean softplus(-(D(fake) - D(real))). Scores: (B, 1, h, w); mask: (B, 1, H, W), 1 = hole."""
        return self._weighted_generator_loss(F.softplus(discr_real_pred - discr_fake_pred), mask), {}

    def discriminator_loss(
        self,
        *,
        real_batch: Tensor,
        fake_batch: Tensor,
        discr_real_pred: Tensor,
        discr_fake_pred: Tensor,
        mask: Tensor,
        step: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of softplus(-(D(real) - D(fake))) + gp_coef · (R1 + R2).

        real_batch, fake_batch: (B, 3, H, W), with gradient where `penalizes(step)`, the images behind discr_real_pred
        and discr_fake_pred: (B, 1, h, w); mask: (B, 1, H, W), 1 = hole. Penalties are logged as in
        `NonSaturatingWithR1`.
        """
        total = self._pair_term(discr_real_pred - discr_fake_pred, mask).mean()
        logs = _mean_scores(discr_real_pred, discr_fake_pred)
        if self.penalizes(step):
            r1 = self.gp_coef * r1_penalty(discr_real_pred, real_batch)
            r2 = self.gp_coef * r1_penalty(discr_fake_pred, fake_batch)
            total = total + (r1 + r2) * self.gp_interval
            logs |= {"discr_real_gp": r1.detach(), "discr_fake_gp": r2.detach()}
        return total, logs

    def _pair_term(self, margin: Tensor, mask: Tensor) -> Tensor:
        """margin: D(real) - D(fake), (B, 1, h, w), the logit of the real one being the real one."""
        if self.use_unmasked_for_discr and not self.mask_as_fake_target:
            return F.softplus(-margin)
        mask = self.scale_mask(mask, margin)
        if not self.mask_as_fake_target:
            return F.softplus(-margin) * mask
        return F.binary_cross_entropy_with_logits(margin, (1 + mask.to(margin)) / 2, reduction="none")


@dataclass(kw_only=True)
class BCELoss(_MaskedLoss):
    """Binary cross-entropy GAN loss, each term a mean: target 1 for real patches, 0 for fake ones.

    With `mask_as_fake_target` (as in the original code) the fakes' target is 1 - mask: 0 in the hole, 1
    outside. `weight` multiplies the generator's term only; the discriminator's two terms are averaged.
    """

    mask_as_fake_target: bool = True

    def penalizes(self, step: int) -> bool:
        """Never: there is no penalty."""
        return False

    def generator_loss(self, *, discr_fake_pred: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """weight · BCE(D(fake), 1); the mask plays no part. discr_fake_pred: (B, 1, h, w)."""
        target = torch.ones_like(discr_fake_pred)
        return F.binary_cross_entropy_with_logits(discr_fake_pred, target) * self.weight, {}

    def discriminator_loss(
        self, *, real_batch: Tensor, discr_real_pred: Tensor, discr_fake_pred: Tensor, mask: Tensor, step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of BCE(D(real), 1) and BCE(D(fake), target); shapes as in `NonSaturatingWithR1`."""
        fake_target = torch.zeros_like(discr_fake_pred)
        if self.mask_as_fake_target:
            fake_target = 1 - self.scale_mask(mask, discr_fake_pred).to(discr_fake_pred)
        real_loss = F.binary_cross_entropy_with_logits(discr_real_pred, torch.ones_like(discr_real_pred))
        fake_loss = F.binary_cross_entropy_with_logits(discr_fake_pred, fake_target)
        return (real_loss + fake_loss) / 2, _mean_scores(discr_real_pred, discr_fake_pred)


def r1_penalty(discr_real_pred: Tensor, real_batch: Tensor) -> Tensor:
    """Mean over the batch of |∇ sum D(real)|² (Mescheder et al. 2018, eq. 9, without its γ/2); of fakes it is R2.

    real_batch: (B, 3, H, W) with gradient. A scalar that can be differentiated once more; 0 where gradients
    are switched off, as in validation.
    """
    if not torch.is_grad_enabled():
        return discr_real_pred.new_zeros(())
    (gradient,) = torch.autograd.grad(discr_real_pred.sum(), real_batch, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def _mean_scores(discr_real_pred: Tensor, discr_fake_pred: Tensor) -> dict[str, Tensor]:
    return {
        "discr_real_out": discr_real_pred.detach().mean(),
        "discr_fake_out": discr_fake_pred.detach().mean(),
    }


class AdversarialLoss(Protocol):
    """What `losses.adversarial` has to have; it applies its `weight`. Scores (B, 1, h, w), mask (B, 1, H, W)."""

    def penalizes(self, step: int) -> bool:
        """Whether `discriminator_loss` differentiates by `real_batch` in this step."""
        ...

    def generator_loss(self, *, discr_fake_pred: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]: ...

    def discriminator_loss(
        self, *, real_batch: Tensor, discr_real_pred: Tensor, discr_fake_pred: Tensor, mask: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class PairedAdversarialLoss(Protocol):
    """What a loss with `paired = True` has to have: it looks at each fake beside the image it was made from."""

    paired: ClassVar[bool]

    def penalizes(self, step: int) -> bool:
        """Whether `discriminator_loss` differentiates by `real_batch` or `fake_batch` in this step."""
        ...

    def generator_loss(
        self, *, discr_fake_pred: Tensor, discr_real_pred: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """discr_real_pred: without gradient."""
        ...

    def discriminator_loss(
        self,
        *,
        real_batch: Tensor,
        fake_batch: Tensor,
        discr_real_pred: Tensor,
        discr_fake_pred: Tensor,
        mask: Tensor,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


AnyAdversarialLoss = AdversarialLoss | PairedAdversarialLoss


def is_paired(loss: AnyAdversarialLoss) -> TypeGuard[PairedAdversarialLoss]:
    """Whether the loss is given real scores in the generator's step and the fakes themselves in the discriminator's."""
    return getattr(loss, "paired", False)


DISCRIM_LOSSES: dict[str, Callable[..., AnyAdversarialLoss]] = {
    "bce": BCELoss,
    "r1": NonSaturatingWithR1,
    "relativistic": RelativisticWithR1R2,
}


def make_discrim_loss(kind: str | None = None, **settings: Any) -> AnyAdversarialLoss:
    """The adversarial loss that `losses.adversarial` describes."""
    loss = build(DISCRIM_LOSSES, {"kind": kind, **settings}, where=WHERE)
    if (name := settings.get("_target_")) is not None:
        interface = PairedAdversarialLoss if is_paired(loss) else AdversarialLoss
        check_interface(loss, interface, where=WHERE, name=name)
    return loss
