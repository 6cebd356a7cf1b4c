"""The official path of the visualizer that writes files."""

from saicinpainting.training.visualizer import DirectoryVisualizer
