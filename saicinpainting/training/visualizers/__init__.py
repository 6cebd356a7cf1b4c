"""The official path of visualizers."""

from __future__ import annotations

from saicinpainting.training.visualizer import make_visualizer

__all__ = ["make_visualizer"]
