"""The official path of feature refinement."""

from __future__ import annotations

from saicinpainting.inference.refinement import refine_predict

__all__ = ["refine_predict"]
