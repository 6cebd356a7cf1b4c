#!/usr/bin/env python3
"""`lama-find-best-checkpoint` from a checkout, see saicinpainting/commands/find_best_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.find_best_checkpoint import main

if __name__ == "__main__":
    main()
