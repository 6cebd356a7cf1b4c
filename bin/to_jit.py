#!/usr/bin/env python3
"""Export a checkpoint as TorchScript: to_jit.py RUN OUT.pt [--checkpoint best.ckpt]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export import main, register_resolvers, run_command

if __name__ == "__main__":
    register_resolvers()
    run_command(lambda: main("torchscript", __doc__))
