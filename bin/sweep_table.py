#!/usr/bin/env python3
"""`lama-sweep-table` from a checkout, see saicinpainting/commands/sweep_table.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.sweep_table import main

if __name__ == "__main__":
    main()
