"""The official path of visualizers."""

from saicinpainting.training.visualizer import DirectoryVisualizer, NoopVisualizer, make_visualizer
