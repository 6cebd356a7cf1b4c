"""The official path and calls of adversarial losses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from saicinpainting.losses import adversarial
from saicinpainting.losses.adversarial import BCELoss
from saicinpainting.losses.adversarial import r1_penalty as make_r1_gp
from saicinpainting.utils import build

__all__ = ["BCELoss", "NonSaturatingWithR1", "make_discrim_loss", "make_r1_gp"]


class NonSaturatingWithR1(adversarial.NonSaturatingWithR1):
    """The loss as official trainers call it: `pre_…_step` before the discriminator, `…_loss` with all there is."""

    def __init__(
        self, gp_coef: float = 5, weight: float = 1, mask_as_fake_target: bool = False, **settings: Any
    ) -> None:
        super().__init__(gp_coef=gp_coef, weight=weight, mask_as_fake_target=mask_as_fake_target, **settings)

    def pre_generator_step(self, real_batch: Any, fake_batch: Any, generator: Any, discriminator: Any) -> None:
        """Nothing; the other losses of official trainers have it too."""

    def pre_discriminator_step(self, real_batch: Tensor, fake_batch: Any, generator: Any, discriminator: Any) -> None:
        """The penalty is of the gradient by `real_batch`."""
        real_batch.requires_grad = True

    def generator_loss(
        self,
        real_batch: Any = None,
        fake_batch: Any = None,
        discr_real_pred: Any = None,
        discr_fake_pred: Any = None,
        mask: Any = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return super().generator_loss(discr_fake_pred=discr_fake_pred, mask=mask)

    def discriminator_loss(
        self,
        real_batch: Any = None,
        fake_batch: Any = None,
        discr_real_pred: Any = None,
        discr_fake_pred: Any = None,
        mask: Any = None,
        step: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Afterwards `real_batch` wants no gradient."""
        scores = {"discr_real_pred": discr_real_pred, "discr_fake_pred": discr_fake_pred}
        result = super().discriminator_loss(real_batch=real_batch, **scores, mask=mask, step=step)
        if real_batch.is_leaf:
            real_batch.requires_grad = False
        return result


def make_discrim_loss(kind: str | None = None, **settings: Any) -> Any:
    """`r1` with its official calls; others as `losses.adversarial.make_discrim_loss` has them."""
    if kind == "r1":
        return build({kind: NonSaturatingWithR1}, {"kind": kind, **settings}, where=adversarial.WHERE)
    return adversarial.make_discrim_loss(kind, **settings)
