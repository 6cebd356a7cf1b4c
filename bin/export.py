#!/usr/bin/env python3
"""Export a checkpoint: export.py RUN OUT.onnx | OUT.pt (TorchScript) | OUT.pt2 (torch.export)"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.cli import run_command
from saicinpainting.config import register_resolvers


def main(kind: str | None = None, description: str | None = __doc__) -> None:
    from saicinpainting.inference.export import CHECKED_SIZES, export, exportable

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path, help="folder of an experiment: config.yaml and models/")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--checkpoint", default="best.ckpt", help="file of RUN/models (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("saicinpainting").setLevel(logging.INFO)
    difference = export(exportable(args.run, args.checkpoint), args.out, kind=kind)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {megabytes:.1f} MB, at {len(CHECKED_SIZES)} sizes within {difference:.1g} of the model")


if __name__ == "__main__":
    register_resolvers()
    run_command(main)
