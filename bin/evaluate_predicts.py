#!/usr/bin/env python3
"""`lama-evaluate-predicts` from a checkout, see saicinpainting/commands/evaluate_predicts.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.evaluate_predicts import main

if __name__ == "__main__":
    main()
