"""Make a small experiment folder for prediction: average epochs, strip what only training needs."""

import argparse
import re
from pathlib import Path

from saicinpainting.cli import command
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

WEIGHTS = ("best.ckpt", "best.safetensors")


@command
def main() -> None:
    args = parse_args()
    from saicinpainting.io.checkpoint import average_state_dicts, read_checkpoint, without_prefixes, write_checkpoint
    from saicinpainting.networks.ema import average_as_generator

    config = args.indir / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config} does not exist; INDIR must be an experiment folder")
    check_target(args.indir, args.outdir, overwrite=args.overwrite)
    files = [find_checkpoint(args.indir / "models", epoch.strip()) for epoch in args.epochs.split(",")]
    state = average_state_dicts(average_as_generator(read_checkpoint(file)["state_dict"]) for file in files)
    dropped: tuple[str, ...] = ("val_evaluator.", "test_evaluator.", "extra_evaluators.")
    dropped += () if args.leave_discriminators else ("discriminator.",)
    dropped += () if args.leave_losses else ("loss_",)
    name, other = reversed(WEIGHTS) if args.safetensors else WEIGHTS
    out = args.outdir / "models" / name
    write_checkpoint({"state_dict": without_prefixes(state, dropped)}, out)
    write_whole(args.outdir / "config.yaml", config.read_bytes())
    out.with_name(other).unlink(missing_ok=True)  # it would belong to the config that was there
    print(f"{out}: from {', '.join(file.name for file in files)}")


def check_target(indir: Path, outdir: Path, *, overwrite: bool) -> None:
    """An `InputError` if `outdir` is the run itself, or holds a config or weights that are not to be replaced."""
    if outdir.exists() and outdir.samefile(indir):
        raise InputError(f"{outdir} is INDIR itself, whose checkpoints would be replaced; name another folder")
    files = [outdir / "config.yaml", *(outdir / "models" / name for name in WEIGHTS)]
    there = [str(file.relative_to(outdir)) for file in files if file.exists()]
    if there and not overwrite:
        raise InputError(f"{outdir} holds {', '.join(there)}; name another folder, or --overwrite replaces it")


def find_checkpoint(folder: Path, epoch: str) -> Path:
    """`last`, `best`, a file's name with or without `.ckpt`, or an epoch's number."""
    named = [folder / epoch, folder / f"{epoch}.ckpt"]
    numbered = sorted(folder.glob("epoch=*.ckpt")) if epoch.isdigit() else []
    named += [file for file in numbered if re.match(rf"epoch=0*{int(epoch)}(?!\d)", file.stem)]
    for file in named:
        if file.is_file():
            return file
    there = ", ".join(sorted(file.name for file in folder.glob("*.ckpt"))) or "none"
    raise InputError(f"--epochs {epoch}: no such checkpoint in {folder}; there are: {there}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("indir", type=Path, help="experiment folder with config.yaml and models/")
    parser.add_argument("outdir", type=Path, help="folder for the result, which bin/predict.py takes as model.path")
    parser.add_argument(
        "--epochs",
        default="last",
        help="checkpoints to average: last, best or epoch numbers, e.g. 36,37,38 (default: last)",
    )
    parser.add_argument("--leave-discriminators", action="store_true", help="keep the discriminator's weights")
    parser.add_argument("--leave-losses", action="store_true", help="keep the weights of perceptual losses, if any")
    parser.add_argument("--safetensors", action="store_true", help="write models/best.safetensors, not best.ckpt")
    parser.add_argument("--overwrite", action="store_true", help="replace the config and weights that OUTDIR holds")
    return parser.parse_args()
