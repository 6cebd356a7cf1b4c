"""Pictures of batches while training, one table of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saicinpainting.training.visualizers.directory import DirectoryVisualizer
from saicinpainting.training.visualizers.noop import NoopVisualizer
from saicinpainting.training.visualizers.picture import visualize_batch
from saicinpainting.utils import build

__all__ = ["VISUALIZERS", "DirectoryVisualizer", "NoopVisualizer", "Visualizer", "make_visualizer", "visualize_batch"]

Visualizer = DirectoryVisualizer | NoopVisualizer
VISUALIZERS: dict[str, Callable[..., Visualizer]] = {
    "directory": DirectoryVisualizer,
    "noop": NoopVisualizer,
}


def make_visualizer(kind: str, **kwargs: Any) -> Visualizer:
    """The visualizer that the config's `visualizer` describes."""
    return build(VISUALIZERS, {"kind": kind, **kwargs}, where="visualizer")
