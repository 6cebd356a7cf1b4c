from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saicinpainting.data.shard_index import Shard, expand, read_index
from saicinpainting.utils import InputError
from tests.server import serving

GOOD: dict[str, Any] = {"name": "a.tar", "bytes": 2048, "sha256": "0" * 64, "images": 1, "companions": []}


def index_of(**changes: Any) -> str:
    return json.dumps({"format": "lama-shards-1", "shards": [{**GOOD, **changes}]})


HOSTILE = {
    "up": index_of(name="../a.tar"),
    "up in between": index_of(name="b/../../a.tar"),
    "up by another system": index_of(name="..\\a.tar"),
    "up in an address": index_of(name="%2e%2e/a.tar"),
    "no name": index_of(name=""),
    "the folder": index_of(name="."),
    "two lines": index_of(name="a\nb.tar"),
    "half a character": index_of(name="\ud800.tar"),
    "NUL": index_of(name="a\0.tar"),
    "a number as a name": index_of(name=3),
    "text as a number": index_of(bytes="2048"),
    "a truth as a number": index_of(images=True),
    "a fraction": index_of(images=1.5),
    "below zero": index_of(images=-1),
    "more images than bytes": index_of(images=10**15),
    "more bytes than there are": index_of(bytes=10**30, images=10**29),
    "more images than fit into a tar file": index_of(bytes=2048, images=100),
    "a number that is none": index_of(bytes=float("nan")),
    "infinite": index_of(bytes=float("inf")),
    "more images than there are": json.dumps(
        {"format": "lama-shards-1", "shards": [{**GOOD, "bytes": 1 << 39, "images": 1 << 30}] * 50}
    ),
    "up behind a question": index_of(name="a?/../../a.tar"),
    "maps in maps": '{"a":' * 100_000,
    "millions of nothing": '{"format": "lama-shards-1", "shards": [' + "{}," * 6_000_000 + "{}]}",
    "an empty digest": index_of(sha256=""),
    "no digest": index_of(sha256=None),
    "a digest that is a path": index_of(sha256="../" * 21 + "0"),
    "labels as text": index_of(companions="segm"),
    "labels as numbers": index_of(companions=[1]),
    "an unknown key": index_of(more=1),
    "shards as text": json.dumps({"format": "lama-shards-1", "shards": "abc"}),
    "a list": "[]",
    "deep lists": "[" * 100_000,
    "a long number": "9" * 10_000,
    "nothing": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_that_says_what_none_of_ours_does_is_refused(tmp_path: Path, name: str):
    (tmp_path / "index.json").write_text(HOSTILE[name])
    with pytest.raises(InputError, match=r"index\.json") as error:
        read_index(str(tmp_path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_one_of_ours_is_read(tmp_path: Path):
    (tmp_path / "index.json").write_text(index_of(companions=["segm"]))
    assert read_index(str(tmp_path)) == [Shard("a.tar", 2048, "0" * 64, 1, ("segm",))]


@pytest.mark.parametrize("name", ["/etc/a.tar", "file:///etc/a.tar"])
def test_an_index_from_elsewhere_names_no_files_of_this_machine(tmp_path: Path, name: str):
    (tmp_path / "index.json").write_text(index_of(name=name))
    with serving(tmp_path) as server, pytest.raises(InputError, match="a file of this machine"):
        read_index(f"{server.address}/index.json")


@pytest.mark.parametrize("pattern", ["a{0..99999999}.tar", "a{0.." + "9" * 5000 + "}.tar"])
def test_a_pattern_that_counts_without_end_is_refused(pattern: str):
    with pytest.raises(InputError, match="counts more than"):
        next(expand([pattern]))
