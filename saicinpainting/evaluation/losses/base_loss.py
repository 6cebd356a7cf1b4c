"""The official path of metrics by set."""

from __future__ import annotations

from saicinpainting.metrics import FIDScore, LPIPSScore, SSIMScore
from saicinpainting.metrics.base import ImageMetric as EvaluatorScore

__all__ = ["EvaluatorScore", "FIDScore", "LPIPSScore", "SSIMScore"]
