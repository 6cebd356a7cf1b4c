"""How much a file may take of the machine before it is refused: bytes, values and pixels, against what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

SPARE_BYTES = 64 << 20
MOST_TIMES_PACKED = 4
"""Weights hardly compress; what becomes many times as large is no checkpoint."""
DEEPEST = 64
"""Nested containers. What goes through them recurses."""
LONGEST_NUMBER = 10_000
"""Bits; Python writes down no number of more than 4300 digits."""
MOST_PIXELS = 64_000_000
"""Of an image, 8000 x 8000, with 16 bytes each while it is read: a gigabyte, of a few kilobytes of one colour."""
ALLOWING_PIXELS = "LAMA_MAX_PIXELS"
"""Variable with another number, up to Pillow's own limit of 178,956,970."""


MOST_SCANNED = 1_500_000_000
"""Pixels of all scans of a JPEG file together: each may say next to nothing, and is gone through in full."""
LEAST_OF_A_SCAN = 11
"""Bytes."""


class BudgetError(ValueError):
    """A file asks for more than a sound one of its kind would."""


def check_bytes(declared: int, present: int) -> None:
    """A `BudgetError` if a file of `present` bytes says that it holds `declared`."""
    if declared > SPARE_BYTES + MOST_TIMES_PACKED * present:
        raise BudgetError(f"it claims {declared} bytes and has {present}")


class Budget:
    """Counts down from `most`; `what` is counted."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._left, self._what = most, most, what

    def spend(self, number: int = 1) -> None:
        """A `BudgetError` once more than `most` are spent."""
        self._left -= number
        if self._left < 0:
            raise BudgetError(f"it has more than {self._most} {self._what}")


def check_nesting(value: Any, most: int) -> None:
    """A `BudgetError` for containers that hold more than `most` values, or lie too deep.

    What several containers share counts in each of them, since whoever goes through them meets it as often.
    """
    budget, left = Budget(most, "values"), [(value, 0)]
    while left:
        one, depth = left.pop()
        if depth > DEEPEST:
            raise BudgetError(f"its values are nested deeper than {DEEPEST}")
        if isinstance(one, Mapping | list | tuple):
            budget.spend(len(one))  # before they are copied: one may hold itself
            left += [(part, depth + 1) for part in (one.values() if isinstance(one, Mapping) else one)]
        elif isinstance(one, int) and one.bit_length() > LONGEST_NUMBER:
            raise BudgetError(f"a number of {one.bit_length()} bits")


def check_pixels(width: int, height: int, *, sixteen_bits: bool = False) -> None:
    """A `BudgetError` for an image of more pixels than are decoded; those of 16 bits count twice."""
    most = os.environ.get(ALLOWING_PIXELS, "")
    if width * height * (2 if sixteen_bits else 1) > (int(most) if most.isdecimal() else MOST_PIXELS):
        raise BudgetError(
            f"{width}x{height} pixels{' of 16 bits' if sixteen_bits else ''}, more than are read at once; cut it into "
            f"parts, or set {ALLOWING_PIXELS} (up to 178956970) if you trust it"
        )


def check_scans(data: bytes, width: int, height: int) -> None:
    """A `BudgetError` for a JPEG file's content that takes long by its number of scans."""
    if width * height * (len(data) // LEAST_OF_A_SCAN) <= MOST_SCANNED:  # as most: counting takes a millisecond a MB
        return
    scans = data.count(b"\xff\xda")
    if width * height * scans > MOST_SCANNED:
        raise BudgetError(f"{width}x{height} pixels in {scans} scans; save it anew, with fewer")
