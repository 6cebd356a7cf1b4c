#!/usr/bin/env python3
"""`lama-make-checkpoint` from a checkout, see saicinpainting/commands/make_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.make_checkpoint import main

if __name__ == "__main__":
    main()
