"""The official path of feature matching and pixel losses."""

from saicinpainting.losses.feature_matching import feature_matching_loss, masked_l1_loss, masked_l2_loss
