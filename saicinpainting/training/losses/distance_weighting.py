"""The official path of distance-weighted masks."""

from saicinpainting.losses.distance_weighting import BlurredMask as BlurMask
from saicinpainting.losses.distance_weighting import EmulatedDistanceMask as EmulatedEDTMask
from saicinpainting.losses.distance_weighting import make_mask_distance_weighter
