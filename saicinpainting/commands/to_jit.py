"""Export a checkpoint as TorchScript: to_jit.py RUN OUT.pt [--checkpoint best.ckpt]"""

from saicinpainting.cli import command
from saicinpainting.commands.export import export_run


@command
def main() -> None:
    export_run("torchscript", __doc__)
