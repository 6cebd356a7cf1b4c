#!/usr/bin/env python3
"""`lama-gen-mask-dataset` from a checkout, see saicinpainting/commands/gen_mask_dataset.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.gen_mask_dataset import main

if __name__ == "__main__":
    main()
