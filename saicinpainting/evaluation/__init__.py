"""Measuring checkpoints and folders of predictions: sets, tables, reports."""

from __future__ import annotations

from typing import Any


def make_evaluator(*args: Any, **kwargs: Any) -> Any:
    """The official path of `metrics.evaluator.make_evaluator`."""
    from saicinpainting.metrics.evaluator import make_evaluator  # torchmetrics takes a second, and few need it

    return make_evaluator(*args, **kwargs)
