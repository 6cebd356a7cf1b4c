#!/usr/bin/env python3
"""`lama-prepare-celeba` from a checkout, see saicinpainting/commands/prepare_celeba.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.prepare_celeba import main

if __name__ == "__main__":
    main()
