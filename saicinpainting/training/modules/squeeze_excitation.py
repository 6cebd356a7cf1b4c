"""The official path of squeeze and excitation."""

from __future__ import annotations

from saicinpainting.networks.fourier import SELayer

__all__ = ["SELayer"]
