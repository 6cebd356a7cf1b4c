#!/usr/bin/env python3
"""`lama-make-shards` from a checkout, see saicinpainting/commands/make_shards.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.make_shards import main

if __name__ == "__main__":
    main()
