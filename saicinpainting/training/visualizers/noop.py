"""The official path of the visualizer that draws nothing."""

from __future__ import annotations

from saicinpainting.training.visualizer import NoopVisualizer

__all__ = ["NoopVisualizer"]
