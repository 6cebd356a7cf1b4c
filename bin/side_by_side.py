#!/usr/bin/env python3
"""`lama-side-by-side` from a checkout, see saicinpainting/commands/side_by_side.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.side_by_side import main

if __name__ == "__main__":
    main()
