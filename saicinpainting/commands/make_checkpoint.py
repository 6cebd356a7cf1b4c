"""Make a small run for prediction: average epochs, leave out what only training needs."""

import argparse
import re
from pathlib import Path
from typing import Any

from saicinpainting.cli import command
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

WEIGHTS = ("best.ckpt", "best.safetensors")


@command
def main() -> None:
    args = parse_arguments()
    import yaml

    from saicinpainting.config import GENERATOR_SECTIONS, read_experiment_config, resolved_sections
    from saicinpainting.io.checkpoint import (
        CONFIG,
        EVALUATOR_PREFIXES,
        average_state_dicts,
        read_checkpoint,
        without_prefixes,
        write_checkpoint,
    )
    from saicinpainting.networks.ema import with_averaged_generator

    config = args.indir / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config} does not exist; INDIR must be the folder of a run")
    check_target(args.indir, args.outdir, overwrite=args.overwrite)
    files = [find_checkpoint(args.indir / "models", epoch.strip()) for epoch in args.epochs.split(",")]
    state = average_state_dicts(with_averaged_generator(read_checkpoint(file)["state_dict"]) for file in files)
    dropped: tuple[str, ...] = EVALUATOR_PREFIXES
    dropped += () if args.leave_discriminators else ("discriminator.",)
    dropped += () if args.leave_losses else ("loss_",)  # of any loss, those of official runs too
    name, other = reversed(WEIGHTS) if args.safetensors else WEIGHTS
    out = args.outdir / "models" / name
    state, settings = without_prefixes(state, dropped), config.read_bytes()
    sections = resolved_sections(read_experiment_config(args.indir), GENERATOR_SECTIONS)
    if args.compact:
        state = {name: halved(weight) for name, weight in state.items()}
        settings = yaml.safe_dump(sections, sort_keys=False).encode()
    write_checkpoint({"state_dict": state, CONFIG: sections}, out)
    write_whole(args.outdir / "config.yaml", settings)
    out.with_name(other).unlink(missing_ok=True)  # it would belong to the config that was there
    print(f"{out}: from {', '.join(file.name for file in files)}")


def halved(weight: Any) -> Any:
    """A kernel in float16; what has one number a channel, statistics among it, may lie beyond its range and stays."""
    return weight.half() if weight.ndim > 1 and weight.is_floating_point() else weight


def check_target(indir: Path, outdir: Path, *, overwrite: bool) -> None:
    """An `InputError` if `outdir` is the run itself, or holds a config or weights that are not to be replaced."""
    if outdir.exists() and outdir.samefile(indir):
        raise InputError(f"{outdir} is INDIR itself, whose checkpoints would be replaced; name another folder")
    files = [outdir / "config.yaml", *(outdir / "models" / name for name in WEIGHTS)]
    there = [str(file.relative_to(outdir)) for file in files if file.exists()]
    if there and not overwrite:
        raise InputError(f"{outdir} holds {', '.join(there)}; name another folder, or --overwrite replaces it")


def find_checkpoint(folder: Path, epoch: str) -> Path:
    """The checkpoint that `--epochs` names: `last`, `best`, a file with or without `.ckpt`, or an epoch's number.

    Of several checkpoints of an epoch it is the one of the most steps.
    """
    named = [folder / epoch, folder / f"{epoch}.ckpt"]
    if epoch.isdigit():
        of_epoch = [f for f in folder.glob("epoch=*.ckpt") if re.match(rf"epoch=0*{int(epoch)}(?!\d)", f.stem)]
        named += sorted(of_epoch, key=lambda file: (_steps(file), file.name), reverse=True)
    for file in named:
        if file.is_file():
            return file
    there = ", ".join(sorted(file.name for file in folder.glob("*.ckpt"))) or "none"
    raise InputError(f"--epochs {epoch}: no such checkpoint in {folder}; there are: {there}")


def _steps(file: Path) -> int:
    """The number of steps in the name of a checkpoint, -1 if it has none."""
    found = re.search(r"step=(\d+)", file.stem)
    return int(found[1]) if found else -1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("indir", type=Path, help="folder of a run: config.yaml and models/")
    parser.add_argument("outdir", type=Path, help="folder for the result, which bin/predict.py takes as model.path")
    parser.add_argument(
        "--epochs",
        default="last",
        help="checkpoints to average: last, best, files or epoch numbers, e.g. 36,37,38 (default: last)",
    )
    parser.add_argument("--leave-discriminators", action="store_true", help="keep the discriminator's weights")
    parser.add_argument("--leave-losses", action="store_true", help="keep the weights of perceptual losses, if any")
    parser.add_argument("--safetensors", action="store_true", help="write models/best.safetensors, not best.ckpt")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="kernels in float16, and of the config only what describes the generator: half the size, for passing on",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the config and weights that OUTDIR holds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
