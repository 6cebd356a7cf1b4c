"""The official path of convolutions of several dilations."""

from saicinpainting.networks.multidilated import MultidilatedConv
