"""The official path of adversarial losses."""

from saicinpainting.losses.adversarial import BCELoss, NonSaturatingWithR1, make_discrim_loss
