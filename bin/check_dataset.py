#!/usr/bin/env python3
"""`lama-check-dataset` from a checkout, see saicinpainting/commands/check_dataset.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.check_dataset import main

if __name__ == "__main__":
    main()
