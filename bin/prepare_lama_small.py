#!/usr/bin/env python3
"""`lama-prepare-lama-small` from a checkout, see saicinpainting/commands/prepare_lama_small.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.prepare_lama_small import main

if __name__ == "__main__":
    main()
