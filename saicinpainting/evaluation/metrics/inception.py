"""A former path of FID's network."""

from saicinpainting.metrics.inception import FIDInception, _make_inception

__all__ = ["FIDInception", "_make_inception"]
