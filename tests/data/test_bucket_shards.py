"""Shards in buckets: read like those of a server, resumed, verified, and nothing else reached through them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile
from PIL import Image

from saicinpainting.commands.make_shards import index, verify
from saicinpainting.data.datasets import make_train_dataset
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.shard_index import read_index
from saicinpainting.data.shard_writing import write_shards
from saicinpainting.data.shards import ShardSource
from saicinpainting.data.sources import FolderSource, SourceError
from saicinpainting.io import download
from saicinpainting.io.buckets import BucketObject
from saicinpainting.utils import InputError
from tests.helpers import photo
from tests.server import serving

IMAGES = 6
STORE = fsspec.filesystem("memory")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """The address of a set of three shards."""
    for i in range(IMAGES):
        file = tmp_path / "photos" / f"{i}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(photo("astronaut.png", 70, 18 * i)).save(file)
    write_shards(FolderSource(tmp_path / "photos"), tmp_path / "set", root=tmp_path / "photos", shard_images=2)
    for file in (tmp_path / "set").iterdir():
        STORE.pipe(f"/photos/set/{file.name}", file.read_bytes())
    yield "memory://photos/set"
    STORE.rm("/photos", recursive=True)


@pytest.mark.parametrize("name", ["", "/", "/index.json"])
def test_samples_are_those_of_the_folder(bucket: str, tmp_path: Path, name: str) -> None:
    settings = {"kind": "shards", "out_size": 64, "mask_gen_kwargs": {"box_proba": 0}}
    there = make_train_dataset(**settings, indir=bucket + name, cache_dir=str(tmp_path / "cache"))
    here = make_train_dataset(**settings, indir=str(tmp_path / "set"))
    for i in range(IMAGES):
        key = SampleKey(i, 7, 0)
        assert (there[key]["image"] == here[key]["image"]).all()
    kept = list((tmp_path / "cache" / "lama-shards").glob("*.tar"))
    assert sorted(file.read_bytes() for file in kept) == sorted(
        f.read_bytes() for f in (tmp_path / "set").glob("*.tar")
    )


def test_a_cut_connection_is_gone_on_with(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    source = ShardSource(bucket, cache_dir=str(tmp_path / "cache"))
    begun, read = [], MemoryFile.read

    def cut(file: MemoryFile, size: int = -1) -> bytes:
        """Two connections bring 3000 bytes each."""
        if len(begun) > 2:
            return read(file, size)
        if file.tell() == begun[-1]:
            return read(file, 3000)
        raise ConnectionError("the store is gone")

    def open_at(place: BucketObject, address: str, headers: Mapping[str, str]) -> None:
        made(place, address, headers)
        begun.append(place._file.tell())

    made = BucketObject.__init__
    monkeypatch.setattr(BucketObject, "__init__", open_at)
    monkeypatch.setattr(MemoryFile, "read", cut)
    assert source.read(0) == (tmp_path / "photos" / "0.jpg").read_bytes()
    assert begun == [0, 3000, 6000]


def test_an_object_that_is_another_one_is_refused(bucket: str, tmp_path: Path) -> None:
    damaged = bytearray(STORE.cat("/photos/set/shard-000001.tar"))
    damaged[2000] ^= 1
    STORE.pipe("/photos/set/shard-000001.tar", bytes(damaged))
    STORE.rm("/photos/set/shard-000002.tar")
    source = ShardSource(bucket, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(SourceError, match=r"memory://photos/set/shard-000001\.tar has sha256 .*, expected"):
        source.read(2)
    with pytest.raises(SourceError, match=r"memory://photos/set/shard-000002\.tar \(no such object\)"):
        source.read(4)
    with pytest.raises(InputError, match="2 shards of memory://photos/set are not what the index says"):
        verify(bucket)
    with pytest.raises(InputError, match=r"cache_dir: shards behind an address need a folder"):
        ShardSource(bucket)


def test_shards_in_a_bucket_are_indexed(bucket: str, tmp_path: Path) -> None:
    index([f"{bucket}/shard-{{000000..000002}}.tar"], tmp_path / "index.json")
    assert [shard.name for shard in read_index(str(tmp_path))] == [f"{bucket}/shard-00000{i}.tar" for i in range(3)]
    verify(str(tmp_path))


def test_what_is_missing_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^memory://photos/other/index\.json: .* \(no such object\)"):
        read_index("memory://photos/other")
    with pytest.raises(InputError, match=r"^oci://photos/index\.json: .*oci:// needs a package \(.*buckets\]'"):
        read_index("oci://photos")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(InputError, match=r"memory:// needs a package .*pip install 'saicinpainting\[buckets\]'"):
        read_index(bucket)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/a.tar", "a file of this machine"),
        ("file:///etc/a.tar", "a file of this machine"),
        ("memory://private/a.tar", "in another bucket than the index"),
        ("gs://photos/a.tar", "in another bucket than the index"),
        ("s3://photos/a.tar", "in another bucket than the index"),
        ("../private/a.tar", "leads out"),
    ],
)
def test_an_index_in_a_bucket_stays_in_it(bucket: str, name: str, message: str) -> None:
    content = json.loads(STORE.cat("/photos/set/index.json"))
    content["shards"][0]["name"] = name
    STORE.pipe("/photos/set/index.json", json.dumps(content).encode())
    with pytest.raises(InputError, match=message):
        read_index(bucket)


@pytest.mark.parametrize("name", ["a::file:///etc/passwd", "local://etc/passwd", "simplecache::file:///etc/passwd"])
def test_no_other_file_system_is_reached(bucket: str, tmp_path: Path, name: str) -> None:
    content = json.loads(STORE.cat("/photos/set/index.json"))
    content["shards"][0]["name"] = name
    STORE.pipe("/photos/set/index.json", json.dumps(content).encode())
    with pytest.raises(SourceError, match=r"expected an address without ::|no such object"):
        ShardSource(bucket, cache_dir=str(tmp_path / "cache")).read(0)


def test_an_index_of_a_server_names_no_bucket(bucket: str, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "set" / "index.json").read_text())
    content["shards"][0]["name"] = f"{bucket}/shard-000000.tar"
    (tmp_path / "set" / "index.json").write_text(json.dumps(content))
    with serving(tmp_path / "set") as server, pytest.raises(InputError, match="in another bucket than the index"):
        read_index(server.address)
