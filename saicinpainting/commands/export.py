"""Export a checkpoint: export.py RUN OUT.onnx | OUT.pt (TorchScript) | OUT.pt2 (torch.export)"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.config import register_resolvers


@command
def main() -> None:
    export_run(None, __doc__)


def export_run(kind: str | None, description: str | None) -> None:
    """`kind`: as in `export`; None: by the ending of the file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", help="folder of a run, file of weights, or name of a published model")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--checkpoint", default="best.ckpt", help="file of RUN/models (default: %(default)s)")
    parser.add_argument(
        "--trust", nargs="+", default=[], metavar="PACKAGE", help="packages whose code the run may name as _target_"
    )
    args = parser.parse_args()
    from saicinpainting.inference.export import CHECKED_SIZES, export, exportable

    register_resolvers()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("saicinpainting").setLevel(logging.INFO)
    difference = export(exportable(args.run, args.checkpoint, trust=args.trust), args.out, kind=kind)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {megabytes:.1f} MB, at {len(CHECKED_SIZES)} sizes within {difference:.1g} of the model")
