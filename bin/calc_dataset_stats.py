#!/usr/bin/env python3
"""`lama-calc-dataset-stats` from a checkout, see saicinpainting/commands/calc_dataset_stats.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.calc_dataset_stats import main

if __name__ == "__main__":
    main()
