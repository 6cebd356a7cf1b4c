"""Export a checkpoint as TorchScript: to_jit.py RUN OUT.pt [--checkpoint best.ckpt]

The official words are taken too: to_jit.py model.path=RUN save_path=OUT.pt [model.checkpoint=best.ckpt]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from saicinpainting.cli import command
from saicinpainting.commands.export import export_run
from saicinpainting.utils import InputError, did_you_mean

OFFICIAL = ("model.path", "save_path", "model.checkpoint")


@command
def main() -> None:
    sys.argv[1:] = translated(sys.argv[1:])
    export_run("torchscript", __doc__)


def translated(words: Sequence[str]) -> list[str]:
    """The arguments RUN, OUT and --checkpoint for the official words `key=value`; others stay as they are.

    Raises:
        InputError: an official word that is unknown or missing.
    """
    plain = [word.removeprefix("+") for word in words]  # the official config lacks save_path
    if not any(word.startswith(tuple(f"{key}=" for key in OFFICIAL)) for word in plain):
        return list(words)
    given = dict(word.partition("=")[::2] for word in plain)
    for key in given:
        if key not in OFFICIAL:
            raise InputError(f"{key}: unknown word beside model.path= and save_path=; {did_you_mean(key, OFFICIAL)}")
    for key in OFFICIAL[:2]:
        if not given.get(key):
            raise InputError(f"{key}= is missing; expected model.path=RUN save_path=OUT.pt")
    checkpoint = given.get("model.checkpoint")
    return [*(["--checkpoint", checkpoint] if checkpoint else []), "--", given["model.path"], given["save_path"]]


if __name__ == "__main__":
    main()
