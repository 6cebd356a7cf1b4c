#!/usr/bin/env python3
"""`lama-models` from a checkout, see saicinpainting/commands/models.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.models import main

if __name__ == "__main__":
    main()
