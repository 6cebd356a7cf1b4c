#!/usr/bin/env python3
"""`lama-plan` from a checkout, see saicinpainting/commands/plan.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.plan import main

if __name__ == "__main__":
    main()
