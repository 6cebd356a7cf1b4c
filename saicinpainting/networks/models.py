"""Published models by name: what there is, where its files lie, and fetching them.

The table is `configs/models.yaml`; the environment variable LAMA_MODELS names another of the same form.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from filelock import FileLock

from saicinpainting.config import CONFIGS
from saicinpainting.io.archives import check_name, damage_as, open_zip, zip_members
from saicinpainting.io.budgets import check_bytes
from saicinpainting.io.connection import is_address, without_secrets
from saicinpainting.io.download import Checksum, digest_of, fetch
from saicinpainting.io.files import disk_problem, whole
from saicinpainting.io.weights import is_offline, torch_home, weights_file
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)

TABLE = CONFIGS / "models.yaml"
INSIDE = Path(__file__).parents[1] / "pretrained"
"""Models that ship with the package, a run's folder each."""
DEFAULT = "lama-small"
"""The model where none is named."""
ATTEMPTS = 5
VERIFIED = ".verified"
"""A file in a model's folder: that its files have the published checksums, and a digest of these."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model, or the zip that has them.

    Args:
        address: where it can be had; empty for a file inside the zip.
        member: its path in the zip.
        sha256: its checksum; empty where none is known.
        bytes: its size; None where that is unknown.
    """

    address: str = ""
    member: str = ""
    sha256: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class PublishedModel:
    """An entry of the table; `files`: by their paths in the model's folder. `ships`: they are inside the package."""

    name: str
    config: str
    what: str
    licence: str
    files: Mapping[str, RemoteFile]
    zip: RemoteFile | None = None
    ships: bool = False
    paper: str = ""
    measured: str = ""
    folder: Path = field(default=Path(), compare=False)

    @property
    def checkpoint(self) -> str:
        """The name of its file of weights, in `models/`."""
        return next((Path(name).name for name in self.files if name.startswith("models/")), "best.ckpt")

    @property
    def bytes(self) -> int:
        """What is downloaded, as far as it is known."""
        return (self.zip.bytes or 0) if self.zip else sum(file.bytes or 0 for file in self.files.values())

    def missing(self) -> list[str]:
        return [name for name in self.files if not (self.folder / name).is_file()]


def published_models() -> dict[str, PublishedModel]:
    """The table's models by name."""
    return _read(Path(os.environ.get("LAMA_MODELS") or TABLE), torch_home() / "lama")


@cache
def _read(table: Path, home: Path) -> dict[str, PublishedModel]:
    try:
        entries = yaml.safe_load(table.read_text(encoding="utf-8"))
        return {name: _model(name, entry, home) for name, entry in entries.items()}
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{table}: no table of models ({error}); expected entries as in configs/models.yaml"
        ) from error


def _model(name: str, entry: Mapping[str, Any], home: Path) -> PublishedModel:
    files = {path: RemoteFile(**(file or {})) for path, file in entry["files"].items()}
    archive = RemoteFile(**entry["zip"]) if "zip" in entry else None
    folder = (INSIDE if entry.get("ships") else home) / name
    return PublishedModel(**{**entry, "name": name, "files": files, "zip": archive, "folder": folder})


def find_model(name: str) -> PublishedModel:
    """The model of this name; an `InputError` names near ones."""
    models = published_models()
    if name not in models:
        raise InputError(
            f"model {name}: no such folder or file, and no published model of this name; {did_you_mean(name, models)}"
        )
    return models[name]


def fetch_model(model: PublishedModel) -> Path:
    """Its folder, with all its files, downloaded and verified once.

    What an interrupted download has brought is kept for the next start. Processes that need the same model wait for
    the one that fetches it. LAMA_OFFLINE=1 forbids the download.

    Raises:
        InputError: a file cannot be had, or is another one than published; it says which file to put where.
    """
    if model.ships:
        if missing := model.missing():
            raise InputError(f"model {model.name}: {model.folder / missing[0]} is missing; install this package again")
        return model.folder
    if not model.missing() and (_is_verified(model) or not os.access(model.folder, os.W_OK)):
        verify_model(model)  # what somebody has put there for all, every start reads through
        return model.folder
    try:
        model.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(model.folder.with_name(f".{model.name}.lock")):
            if model.missing():
                (model.folder / VERIFIED).unlink(missing_ok=True)
                _fetch_missing(model)
            verify_model(model)
    except (InputError, OSError) as error:
        reason = error if isinstance(error, InputError) else f"model {model.name}: {disk_problem(error) or error}"
        raise InputError(f"{reason}; {_by_hand(model)}") from error
    return model.folder


def _fetch_missing(model: PublishedModel) -> None:
    if model.zip is None:
        for name in model.missing():
            _download(model.files[name], model.folder / name, model)
        return
    archive = _zip_of(model)
    if not archive.is_file():  # it may have been put there by hand
        _download(model.zip, archive, model)
    _unpack(archive, model.folder, {name: file.member for name, file in model.files.items()})
    archive.unlink()


def _download(file: RemoteFile, path: Path, model: PublishedModel) -> None:
    address = _at_endpoint(file.address)
    if is_offline():
        raise InputError(f"model {model.name}: cannot download {without_secrets(address)} (LAMA_OFFLINE is set)")
    checksum = Checksum("sha256", file.sha256) if file.sha256 else None
    fetch(address, path, what=f"model {model.name}", size=file.bytes, checksum=checksum, attempts=ATTEMPTS)


def _at_endpoint(address: str) -> str:
    """HF_ENDPOINT names a mirror of huggingface.co, as for its own tools."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    hub = "https://huggingface.co/"
    return f"{endpoint}/{address.removeprefix(hub)}" if endpoint and address.startswith(hub) else address


def _unpack(archive: Path, folder: Path, wanted: Mapping[str, str] | None = None) -> None:
    """Take files out of a zip; those that are there in their size stay.

    wanted: members by the files' paths in `folder`; None: the run inside the zip, the folder of its `config.yaml`.
    """
    damaged = damage_as(lambda reason: InputError(f"{archive} is damaged ({reason}); remove it and copy it anew"))
    with damaged, open(archive, "rb") as file, open_zip(file) as packed:
        members = {member.filename: member for member in zip_members(packed, file)}
        files = _run_in(members, archive) if wanted is None else wanted
        check_bytes(
            sum(members[member].file_size for member in files.values() if member in members),
            os.fstat(file.fileno()).st_size,
        )
        for name, member in files.items():
            check_name(name)
            if member not in members:
                raise InputError(f"{archive} has no {member}; expected the zip of a run's folder")
            target = folder / name
            if target.is_file() and target.stat().st_size == members[member].file_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as part, packed.open(member) as source, open(part, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def _run_in(members: Mapping[str, zipfile.ZipInfo], archive: Path) -> dict[str, str]:
    """The members of the outermost run, by their paths in its folder."""
    paths = {PurePosixPath(name): name for name, member in members.items() if not member.is_dir()}
    roots = [path.parent for path in paths if path.name == "config.yaml"]
    if not roots:
        raise InputError(f"{archive} has no config.yaml; expected the zip of a run's folder")
    root = min(roots, key=lambda path: len(path.parts))
    inside = {path.relative_to(root): name for path, name in paths.items() if path.is_relative_to(root)}
    return {str(path): name for path, name in inside.items() if path.parts and ".." not in path.parts}


def verify_model(model: PublishedModel, *, again: bool = False) -> None:
    """Compare the files with their published checksums; once, unless `again`.

    Raises:
        InputError: a file differs; it is removed, so that it is fetched again.
    """
    if not again and _is_verified(model):
        return
    ours = not model.ships and os.access(model.folder, os.W_OK)
    for name, file in model.files.items():
        path = model.folder / name
        if file.sha256 and (found := digest_of(path, "sha256")) != file.sha256:
            differs = f"model {model.name}: {path} has sha256 {found}, expected {file.sha256}"
            if model.ships:
                raise InputError(f"{differs}; install this package again")
            if not ours:
                raise InputError(f"{differs}; replace it, or name another folder with TORCH_HOME")
            (model.folder / VERIFIED).unlink(missing_ok=True)
            path.unlink()
            raise InputError(f"{differs}; it was removed, start again")
    if ours:
        (model.folder / VERIFIED).write_text(_mark(model))


def _is_verified(model: PublishedModel) -> bool:
    mark = model.folder / VERIFIED
    return mark.is_file() and mark.read_text() == _mark(model)


def _mark(model: PublishedModel) -> str:
    checksums = sorted((name, file.sha256) for name, file in model.files.items() if file.sha256)
    return hashlib.sha256(repr(checksums).encode()).hexdigest()


def _zip_of(model: PublishedModel) -> Path:
    """Where its zip is downloaded to."""
    assert model.zip is not None
    return model.folder / Path(urlsplit(model.zip.address).path).name


def _by_hand(model: PublishedModel) -> str:
    if model.zip is not None:
        return f"or put {model.zip.address} by hand at {_zip_of(model)}"
    places = [f"{model.files[name].address} at {model.folder / name}" for name in model.missing()]
    return f"or put {', '.join(places) or f'its files in {model.folder}'} by hand"


def table_of_models() -> str:
    """The table of the documents, in Markdown."""
    lines = ["| name | what | megabytes | config | paper | licence |", "|---|---|---|---|---|---|"]
    for model in published_models().values():
        size = f"{model.bytes / 1e6:.0f}" if model.bytes else "?"
        cells = (f"`{model.name}`", model.what, size, f"`{model.config}`", model.paper, model.licence)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@cache
def _tell_of_default() -> None:
    LOGGER.warning("model: %s, which ships with the package; big-lama (381 MB, fetched once) fills better", DEFAULT)


def is_model_name(place: str) -> bool:
    """Whether `place` may be a model's name: neither a path nor an address.

    Of a folder that is no run it may: an evaluation into the current folder leaves one of the model's name there.
    """
    if is_address(place) or place.startswith("hf://") or os.sep in place:
        return False
    path = Path(place)
    is_run = (path / "config.yaml").exists() or (path / "models").exists()
    return not path.exists() or (path.is_dir() and not is_run and place in published_models())


# ---- wherever a model may be named ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    `config`: its `config.yaml`; None if there is none, and the network is recognised from the weights.
    """

    checkpoint: Path
    config: Path | None

    @property
    def folder(self) -> Path:
        """Of the run, where its config is or ought to be."""
        return self.config.parent if self.config else self.checkpoint.parent.parent


def locate_model(place: str | Path, checkpoint: str | None = None) -> ModelFiles:
    """The files of the model that a setting such as `model.path` names, fetched if they have to be.

    Args:
        place: a run's folder, its `models/` or `config.yaml`, a file of weights, a zip of a run, a name of the table,
            an address, which may end in `#sha256=CHECKSUM`, or `hf://OWNER/REPO[@REVISION][/FILE]`.
        checkpoint: the name of the file in `models/`, or beside the config; default `best.ckpt`, or what the table says
            of a published model. Where a run has no `best.ckpt`, its `best.safetensors` is taken.

    Raises:
        InputError: there is nothing of this name, or it cannot be had.
    """
    text = str(place)
    if is_model_name(text):
        model = find_model(text)
        if model.name == DEFAULT:
            _tell_of_default()
        name = model.checkpoint if checkpoint in (None, "", "best.ckpt") else str(checkpoint)
        folder = fetch_model(model)
        return _with_config(folder / "models" / name)
    if text.startswith("hf://"):
        path = _from_hub(text)
    elif is_address(text):
        path = weights_file(text, "", what="model")
    else:
        path = Path(place)
    if path.is_file() and zipfile.is_zipfile(path) and path.suffix == ".zip":
        path = _unpacked(path)
    if path.name == "config.yaml" and path.is_file():
        path = path.parent
    if path.is_file():
        if checkpoint and checkpoint not in ("best.ckpt", path.name):
            raise InputError(
                f"model.checkpoint={checkpoint}: {place} is a file of weights itself; leave model.checkpoint out, or "
                "name the run's folder"
            )
        return _with_config(path)
    if path.name == "models" and path.is_dir() and not (path / "models").exists():
        path = path.parent
    names = [checkpoint or "best.ckpt"]
    names += ["best.safetensors"] if names == ["best.ckpt"] else []  # of bin/make_checkpoint.py --safetensors
    files = [folder / name for folder in (path / "models", path) for name in names]
    return _with_config(next((file for file in files if file.is_file()), files[0]))


def _with_config(checkpoint: Path) -> ModelFiles:
    """With the config beside it or, in a run's `models/`, above."""
    folder = checkpoint.parent
    above = folder.absolute()  # in `models/` itself a file is given by its name alone
    folders = (folder, above.parent) if above.name == "models" else (folder,)
    configs = (place / "config.yaml" for place in folders)
    return ModelFiles(checkpoint, next(filter(Path.is_file, configs), None))


def _unpacked(archive: Path) -> Path:
    """The run inside a zip, unpacked once into the cache: `config.yaml` and `models/`."""
    state = archive.stat()  # in place of its contents, which are hundreds of megabytes
    known_by = f"{archive.resolve()} {state.st_size} {state.st_mtime_ns}"
    folder = torch_home() / "lama" / f"{archive.stem}-{hashlib.sha256(os.fsencode(known_by)).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _unpack(archive, folder)
    return folder


def _from_hub(place: str) -> Path:
    """A file or a whole repository of the Hugging Face hub, by its own package."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(refs/\w+/[^/]+|[^/]+))?(?:/(.+))?", place)
    if not found:
        raise InputError(f"{place}: expected hf://OWNER/REPO, hf://OWNER/REPO@REVISION or either with /FILE")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(f"{place} needs the package huggingface_hub; pip install huggingface_hub") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each address, signed ones with their secrets
    repo, revision, file = found.groups()
    wanted = {"revision": revision, "local_files_only": is_offline()}
    try:
        return Path(hub.hf_hub_download(repo, file, **wanted) if file else hub.snapshot_download(repo, **wanted))
    except Exception as error:  # its own, and those of whatever it fetches with
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        reason = "LAMA_OFFLINE is set, and it was not fetched before" if is_offline() else reason
        raise InputError(f"{place}: cannot be had from the hub ({reason})") from error
