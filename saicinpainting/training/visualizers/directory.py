"""The official path of the visualizer that writes files."""

from __future__ import annotations

from saicinpainting.training.visualizer import DirectoryVisualizer

__all__ = ["DirectoryVisualizer"]
