"""No pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoopVisualizer:
    """Draws nothing.

    Takes the settings of any other kind, so that `visualizer.kind=noop` alone switches pictures off.
    """

    def __init__(self, **_settings_of_other_kinds: Any) -> None:
        pass

    def __call__(self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str = "") -> None:
        pass
