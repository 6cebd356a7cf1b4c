"""The official path of depthwise separable convolutions."""

from saicinpainting.networks.pix2pixhd import DepthwiseSeparableConv as DepthWiseSeperableConv
