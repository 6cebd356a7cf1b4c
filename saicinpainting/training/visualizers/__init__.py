"""The official path of visualizers."""

from saicinpainting.training.visualizer import make_visualizer
