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
    parser.add_argument(
        "--interface", default="default", help="of an ONNX file: default, or carve or opencv, see docs/export.md"
    )
    parser.add_argument(
        "--size", type=height_and_width, metavar="HxW", help="the only size the file takes, for other runtimes"
    )
    parser.add_argument("--precision", default="fp32", help="fp32 or fp16 (default: %(default)s)")
    args = parser.parse_args()
    from saicinpainting.inference.export import export, exportable

    register_resolvers()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("saicinpainting").setLevel(logging.INFO)
    model = exportable(args.run, args.checkpoint, trust=args.trust)
    options = {"interface": args.interface, "size": args.size, "precision": args.precision}
    difference = export(model, args.out, kind=kind, **options)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {megabytes:.1f} MB, within {255 * difference:.1g} of 255 levels of the model")


def height_and_width(text: str) -> tuple[int, int]:
    """`512x768`: height, width."""
    height, times, width = text.lower().partition("x")
    if not (times and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 512x768, got {text!r}")
    return int(height), int(width)


if __name__ == "__main__":
    main()
