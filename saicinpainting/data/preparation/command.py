"""What the commands that prepare a data set share: arguments, checksums, and the location config at the end."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saicinpainting.config import CONFIGS
from saicinpainting.io.download import Checksum
from saicinpainting.io.files import write_whole
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.data.preparation.steps import Preparation


def make_parser(description: str | None, *, location: str) -> argparse.ArgumentParser:
    """A parser with the folder of the data set and the shared options; `location`: its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path, help="folder of the data set")
    parser.add_argument("--eval-sets", nargs="*", help="configs of configs/data_gen (default: those of the paper)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives that are unpacked")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes for the evaluation sets (default: 1)")
    parser.add_argument("--location", default=location, help="name of the location config (default: %(default)s)")
    parser.add_argument("--location-dir", type=Path, default=CONFIGS / "training/location", help="its folder")
    parser.add_argument("--results", type=Path, default=Path(), help="where runs and logs will go (default: here)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    return parser


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What every `Preparation` takes from these arguments."""
    names = ("eval_sets", "seed", "keep_archives", "n_jobs")
    return {"root": args.outdir, **{name: value for name in names if (value := getattr(args, name)) is not None}}


def prepare(args: argparse.Namespace, preparation: Preparation, *, config: str) -> None:
    """Say what will be made and, unless it is a dry run, make it; `config`: of the run that then can be started."""
    print(preparation.describe())
    if args.dry_run:
        return
    # Asked before days of work, not after.
    location = args.location_dir / f"{args.location}.yaml"
    text = location_config(location, data=args.outdir, results=args.results)
    preparation.make()
    write_whole(location, text)
    print(f"finished; train with: bin/train.py -cn {config} location={args.location}")


def location_config(path: Path, *, data: Path, results: Path) -> str:
    """The location config of a data set, to be written to `path`.

    data: the folder with train/, val/ and so on; results: the folder for runs and logs.

    Raises:
        InputError: `path` exists with other content, or its folder does not or cannot be written.
    """
    text = (
        f"# Written by the preparation of {data.name}; train with location={path.stem}.\n"
        f"data_root_dir: {json.dumps(str(data.resolve()))}\n"
        f"out_root_dir: {json.dumps(str(results.resolve() / 'experiments'))}\n"
        f"tb_dir: {json.dumps(str(results.resolve() / 'tb_logs'))}\n"
        f"pretrained_models: {json.dumps(str(results.resolve()))}  # unused, kept for old configs\n"
    )
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} exists and says something else; choose another --location, or remove it")
    if not path.parent.is_dir():
        raise InputError(f"--location-dir: no folder {path.parent}; make it or choose another")
    if not os.access(path.parent, os.W_OK):
        raise InputError(
            f"--location-dir: {path.parent} cannot be written; choose FOLDER/location, which bin/train.py takes with "
            "--config-dir FOLDER"
        )
    return text


def read_checksums(path: Path | None) -> dict[str, Checksum]:
    """A file as `md5sum` and `sha256sum` write it: checksums by the files' names."""
    if path is None:
        return {}
    sums = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--checksums: cannot read {path}: {error}") from error
    for line in filter(str.strip, lines):
        digest, _, name = line.partition(" ")
        algorithm = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(digest))
        if algorithm is None or not name.strip():
            raise InputError(f"--checksums: {path}: expected lines as md5sum writes them, got {line!r}")
        sums[Path(name.strip().lstrip("*")).name] = Checksum(algorithm, digest.lower())
    return sums
