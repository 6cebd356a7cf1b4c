#!/usr/bin/env python3
"""`lama-analyze-errors` from a checkout, see saicinpainting/commands/analyze_errors.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.analyze_errors import main

if __name__ == "__main__":
    main()
