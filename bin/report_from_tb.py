#!/usr/bin/env python3
"""`lama-report-from-tb` from a checkout, see saicinpainting/commands/report_from_tb.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.commands.report_from_tb import main

if __name__ == "__main__":
    main()
