"""Pack training images into tar shards (WebDataset) with an index, or index and verify shards that exist.

    bin/make_shards.py DATA/train SHARDS --shuffle 0 --n-jobs 8      # go on after an interruption: the same command
    bin/make_shards.py --index SHARDS      # of shards that have none: writes SHARDS/index.json
    bin/make_shards.py --index 'http://HOST/set/shard-{000000..000146}.tar' --out index.json
    bin/make_shards.py --verify SHARDS      # or s3://BUCKET/SHARDS, gs://…, az://… with the extra buckets

Train from them with data.train.kind=shards data.train.indir=SHARDS (or the address of the index).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from saicinpainting.cli import command
from saicinpainting.io.connection import is_remote, open_address, without_secrets
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.data.shard_index import Shard


@command
def main() -> None:
    args = parse_arguments()
    if args.verify:
        verify(args.verify)
    elif args.index:
        index(args.index, args.out)
    else:
        pack(args)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("indir", type=Path, nargs="?", help="folder of images, nested folders too")
    parser.add_argument("outdir", type=Path, nargs="?", help="folder for the shards")
    parser.add_argument("--list", type=Path, help="a text file with the images' paths from INDIR, one a line")
    parser.add_argument("--shard-images", type=int, default=5000, help="images of a shard (default: %(default)s)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="random order, for images sorted by class")
    parser.add_argument("--masks", type=Path, help="folder of the images' own masks, NAME.png")
    parser.add_argument("--segm", type=Path, help="folder of the images' semantic maps, NAME.png")
    parser.add_argument("--n-jobs", type=int, default=1, help="number of processes (default: %(default)s)")
    parser.add_argument("--index", nargs="+", metavar="SHARD", help="index these files, folders or addresses")
    parser.add_argument("--out", type=Path, help="of --index (default: index.json in their one folder, or else here)")
    parser.add_argument("--verify", metavar="PLACE", help="compare the shards beside an index with its checksums")
    args = parser.parse_args()
    if not (args.index or args.verify) and args.outdir is None:
        parser.error("expected INDIR and OUTDIR, or --index, or --verify")
    return args


def pack(args: argparse.Namespace) -> None:
    from saicinpainting.data.shard_writing import write_shards
    from saicinpainting.data.sources import FolderSource

    labels = {name: folder for name, folder in (("mask", args.masks), ("segm", args.segm)) if folder}
    source = FolderSource(args.indir, file_list=args.list, labels=labels)
    shards = write_shards(
        source,
        args.outdir,
        root=args.indir,
        shard_images=args.shard_images,
        shuffle=args.shuffle,
        n_jobs=args.n_jobs,
    )
    total = sum(shard.bytes for shard in shards) / 1e6
    print(f"{sum(shard.images for shard in shards)} images, {len(shards)} shards, {total:.1f} MB -> {args.outdir}")


def index(patterns: list[str], out: Path | None) -> None:
    from tqdm import tqdm

    from saicinpainting.data.shard_index import INDEX, Shard, expand, write_index

    places = [place if is_remote(place) else absolute(Path(place)) for place in expand(patterns)]
    out = out or folder_of(places) / INDEX
    shards = [read_through(place) for place in tqdm(places, unit="shard")]
    # Shards that lie beside the index are named without their folder, so that both can be moved together.
    folder = str(out.parent.resolve())
    shards = [
        Shard(**{**vars(s), "name": Path(s.name).name if str(Path(s.name).parent) == folder else s.name})
        for s in shards
    ]
    write_index(out, shards)
    print(f"{sum(shard.images for shard in shards)} images, {len(shards)} shards -> {out}")


def absolute(path: Path) -> str:
    """A link to a file keeps its own name and folder."""
    return str(path.parent.resolve() / path.name)


def folder_of(places: list[str]) -> Path:
    """The folder that all shards lie in, or the current one if they lie in several or behind addresses."""
    folders = {None if is_remote(place) else Path(place).parent for place in places}
    return (folders.pop() if len(folders) == 1 else None) or Path()


def read_through(place: str) -> Shard:
    from saicinpainting.data.shard_index import describe

    try:
        if is_remote(place):
            with open_address(place) as answer:
                return describe(place, answer)
        with open(place, "rb") as file:
            return describe(place, file)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {without_secrets(place)}: {error}") from error


def verify(place: str) -> None:
    from tqdm import tqdm

    from saicinpainting.data.shard_index import read_index

    wrong = []
    for shard in tqdm(read_index(place), unit="shard"):
        name = shard.place(place)
        try:
            found = read_through(name)
        except InputError as error:
            wrong.append(str(error))
            continue
        if found.sha256 != shard.sha256:
            wrong.append(f"{without_secrets(name)}: SHA-256 is {found.sha256}, the index says {shard.sha256}")
    for line in wrong:
        print(line)
    if wrong:
        raise InputError(f"{len(wrong)} shards of {without_secrets(place)} are not what the index says")
    print(f"{without_secrets(place)}: every shard is what the index says")


if __name__ == "__main__":
    main()
