"""The official path of adversarial losses."""

from __future__ import annotations

from saicinpainting.losses.adversarial import BCELoss, NonSaturatingWithR1, make_discrim_loss

__all__ = ["BCELoss", "NonSaturatingWithR1", "make_discrim_loss"]
