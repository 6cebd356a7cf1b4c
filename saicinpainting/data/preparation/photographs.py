"""Photographs that packages ship: which ones, by whom, under which licence, and how to get at them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import yaml

from saicinpainting.config import CONFIGS
from saicinpainting.io.download import digest_of
from saicinpainting.io.folders import images_in
from saicinpainting.utils import InputError

TABLE = CONFIGS / "lama_small_sources.yaml"
ROLES = ("train", "val", "held_out")
OWN = "own photographs"  # in place of a package; a path of this machine says nothing to others
ELSEWHERE = "--no-debian leaves out Debian's packages, --photos FOLDER adds photographs of yours"


@dataclass(frozen=True)
class Photograph:
    """One photograph of the table, or of a folder of the user's.

    Args:
        name: unique; the files made of it begin with it.
        role: one of `ROLES`. Only `train` is trained on; `val` watches training, `held_out` is for the evaluation.
        kind: where it comes from: `debian` and `wheel` are packages, `folder` is a folder of the user's, `packed` a tar
            of `bin/prepare_lama_small.py --pack`.
        package: its name, or `OWN`.
        file: path within the package or folder.
    """

    name: str
    role: str
    kind: str
    package: str
    file: str
    author: str
    licence: str


@dataclass(frozen=True)
class Found:
    """A photograph on this machine.

    Args:
        version: of its package, empty for a folder.
        digest: SHA-256 of the photograph as its package ships it, where `path` is a copy that was made smaller.
    """

    photograph: Photograph
    path: Path
    version: str
    digest: str = ""

    def describe(self) -> dict[str, str]:
        """What sources.json says of it."""
        facts = {key: value for key, value in vars(self.photograph).items() if key != "kind"}
        return {**facts, "version": self.version, "sha256": self.digest or digest_of(self.path, "sha256")}


def read_table(path: Path = TABLE) -> list[Photograph]:
    """The photographs of the table of sources, in its order; what a row does not say, its package says."""
    table = []
    for package in yaml.safe_load(path.read_text(encoding="utf-8")):
        of_package = {key: package.get(key) for key in ("kind", "package", "author", "licence")}
        for name, row in package["photographs"].items():
            own = {"name": name, "file": f"{package['folder']}/{row['file']}"}
            table.append(Photograph(**{**of_package, **row, **own}))
    return table


def find_photographs(
    table: Iterable[Photograph], cache: Path, *, debian: bool = True, skip_missing: bool = False
) -> tuple[list[Found], list[str]]:
    """Fetch the packages of the table and find its photographs in them.

    Args:
        cache: where Debian's packages are kept and unpacked.
        debian: False leaves out Debian's packages.
        skip_missing: leave out what this machine cannot get.

    Returns:
        The photographs, and a line for each package or file that is missing.

    Raises:
        InputError: something is missing, unless `skip_missing`.
    """
    wanted = [photograph for photograph in table if debian or photograph.kind != "debian"]
    found: list[Found] = []
    missing: list[str] = []
    for kind, package in dict.fromkeys((photograph.kind, photograph.package) for photograph in wanted):
        try:
            root, version = unpack_debian(package, cache) if kind == "debian" else find_installed(package)
        except InputError as error:
            missing.append(str(error))
            continue
        for photograph in wanted:
            if (photograph.kind, photograph.package) == (kind, package):
                if (root / photograph.file).is_file():
                    found.append(Found(photograph, root / photograph.file, version))
                else:
                    missing.append(f"{package} {version} has no {photograph.file}")
    if missing and not skip_missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more}; --skip-missing goes on without; {ELSEWHERE}")
    return found, missing


def unpack_debian(package: str, cache: Path) -> tuple[Path, str]:
    """Fetch a package of Debian or Ubuntu into `cache`, without installing it, and unpack it.

    A package file that lies in `cache` is used as it is, so the same files serve again, offline too.

    Returns:
        The folder it is unpacked to, and its version.

    Raises:
        InputError: it cannot be had, or `cache` holds several versions of it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if not any(cache.glob(f"{package}_*.deb")):
        _run(["apt-get", "download", package], cache, failed="run `apt-get update` first if it was never run")
    archives = sorted(cache.glob(f"{package}_*.deb"))
    if len(archives) != 1:
        names = ", ".join(file.name for file in archives) or "none"
        raise InputError(f"{cache}: expected one file of the package {package}, found {names}; keep the one to use")
    (archive,) = archives
    version = archive.name.split("_")[1].replace("%3a", ":")
    folder = cache / "unpacked" / archive.stem
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            again = f"{archive} may be broken: remove it, and it is fetched again"
            _run(["dpkg-deb", "-x", str(archive), f"{part}/files"], cache, failed=again)
            shutil.move(f"{part}/files", folder)
    return folder, version


def _run(command: list[str], folder: Path, *, failed: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not here, so this is not Debian or Ubuntu") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise InputError(f"{' '.join(command[:3])} failed ({lines[0] if lines else 'no reason given'}); {failed}")


def find_installed(package: str) -> tuple[Path, str]:
    """The folder in which an installed package lies, and its version."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise InputError(f"{package} is not installed; `pip install {package}` brings it") from error
    return Path(str(distribution.locate_file(""))), distribution.version


def draw_roles(folder: Path, *, held_out: int, val: int, seed: int) -> list[Found]:
    """The photographs of a folder of the user's own, some of them drawn to be held out and for validation.

    Args:
        held_out, val: how many at most; no more than a quarter and an eighth of the folder are drawn.
    """
    files = images_in(folder)
    if not files:
        raise InputError(f"--photos {folder}: no photographs in it")
    held_out, val = min(held_out, len(files) // 4), min(val, len(files) // 8)
    roles = ["held_out"] * held_out + ["val"] * val + ["train"] * (len(files) - held_out - val)
    np.random.RandomState(seed).shuffle(roles)  # unlike Generator's, the same in every version of numpy
    return [
        Found(
            Photograph(f"photo{i:04d}", role, "folder", OWN, file, author="unknown", licence="unknown"),
            folder / file,
            version="",
        )
        for i, (file, role) in enumerate(zip(files, roles, strict=True))
    ]
