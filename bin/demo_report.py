#!/usr/bin/env python3
"""`lama-demo-report` from a checkout, see saicinpainting/commands/demo_report.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.demo_report import main

if __name__ == "__main__":
    main()
