"""The official path of squeeze and excitation."""

from saicinpainting.networks.fourier import SELayer
