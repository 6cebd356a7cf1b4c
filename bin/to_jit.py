#!/usr/bin/env python3
"""`lama-to-jit` from a checkout, see saicinpainting/commands/to_jit.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.to_jit import main

if __name__ == "__main__":
    main()
