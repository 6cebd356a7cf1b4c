"""Pickles that lie about sizes, or are made to take memory or time. Each is refused within the limits of `within`."""

from __future__ import annotations

import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.utils import InputError

PROTO = b"\x80\x02"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def archive(path: Path, pickle: bytes, storage: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickle)
        file.writestr("a/byteorder", "little")
        file.writestr("a/data/0", storage)
        file.writestr("a/version", "3\n")
    return path


def doubling(first: bytes, twice: bytes, levels: int = 45) -> bytes:
    """Containers that each hold the one before two times; the last is left in the memo."""
    made = first + b"q\x00" + b"0"
    for level in range(1, levels):
        last = b"h" + bytes([level - 1])
        made += twice.replace(b"LAST", last) + b"q" + bytes([level]) + b"0"
    return made + b"h" + bytes([levels - 1])


def tensor(elements: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """{"state_dict": {"w": a tensor with these words about itself}}."""

    def number(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = STORAGE + number(elements) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(size) + numbers(stride)
    return PROTO + b"}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00w" + rebuilt + b"\x89}tRss."


BOMBS = {
    "a place in the memo": PROTO + b"Nr" + struct.pack("<I", 2 * 10**8) + b".",
    "hash of doubled tuples": PROTO + doubling(b")", b"LASTLAST\x86") + b"}h\x2cNs.",
    "hash of deep tuples": PROTO + b")" + b"\x85" * 400_000 + b"q\x00}h\x00Ns.",
    "hash of a storage's key": PROTO + doubling(b")", b"LASTLAST\x86") + b"q\x2e0(h\x2eh\x2eh\x2eh\x2eh\x2etQ.",
    "dicts in dicts": PROTO + doubling(b"}", b"}(X\x01\x00\x00\x00aLASTX\x01\x00\x00\x00bLASTu") + b".",
    "lists in lists": PROTO + doubling(b"]", b"](LASTLASTe") + b".",
    "a list in itself": PROTO + b"]q\x00h\x00a.",
    "deep lists": PROTO + b"]" * 300_000 + b"a" * 299_999 + b".",
    "keys of one hash": PROTO + b"}(" + b"".join(b"\x8a\x0b%sN" % (k * (2**61 - 1)).to_bytes(11, "little") for k in
                                             range(1, 40_000)) + b"u.",
    "copies of a list": PROTO + b"](" + b"N" * 100_000 + b"eq\x000(" + b"ctorch\nSize\nh\x00\x85R" * 10_000 + b"l.",
    "pairs": PROTO + b"(](" + b"K\x01K\x02\x86" * 30_000 + b"eq\x00" + b"ccollections\nOrderedDict\nh\x00\x85R" * 5000
             + b"l.",
    "classes": PROTO + b"(" + b"".join(b"ca\nb%d\n" % i for i in range(60_000)) + b"l.",
    "a key that is a number of megabytes": PROTO + b"\x8b" + struct.pack("<I", 20 << 20) + b"\1" * (20 << 20)
                                           + b"q\x000}(" + b"h\x00N" * 5000 + b"u.",
    "a number that Python writes down nowhere": PROTO + b"\x8b" + struct.pack("<I", 5000) + b"\1" * 5000 + b".",
    "classes of a long name": PROTO + b"X" + struct.pack("<I", 1 << 20) + b"m" * (1 << 20) + b"q\x000]"
                              + b"".join(b"h\x00X\5\0\0\0%05d\x93a" % i for i in range(4000)) + b".",
    "a long name of a storage": PROTO + STORAGE + b"K\4" + b"N" * 100_000 + b"tq\x000" + b"h\x00Q0" * 100_000 + b"N.",
    "calls with many arguments": PROTO + b"(" + b"N" * 100_000 + b"tq\x000ca\nB\nq\x010" + b"h\1h\0R0" * 60_000 + b"N.",
    "pairs of a tensor's rows": tensor(1, 0, (1 << 19, 2), (0, 0)).replace(
        b"ctorch._utils", b"ccollections\nOrderedDict\nctorch._utils", 1)[:-3] + b"\x85Rss.",
    "a long list in itself": PROTO + b"]q\x00(" + b"N" * 290_000 + b"h\x00e.",
    "many names": tensor(4, 0, (4,), (1,))[:-3] + b"q\x00s(" + b"".join(b"X\5\0\0\0%05dh\0" % i for i in range(99_999))
                  + b"us.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "a byte array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "text of which nothing is there": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
    "no operation": PROTO + b"\xff.",
    "attributes of a tensor": tensor(4, 0, (4,), (1,))[:-3] + b"}X\x01\x00\x00\x00ab" + b"ss.",
}  # fmt: skip


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_is_made_to_harm_is_refused(tmp_path: Path, name: str):
    before = memory()
    with pytest.raises(InputError, match=r"bomb\.ckpt") as error:
        read_checkpoint(archive(tmp_path / "bomb.ckpt", BOMBS[name], bytes(16)))
    # What takes time is not done to its end; these take none.
    assert "cannot be read" in str(error.value) or name in ("a place in the memo", "classes of a long name")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert memory() - before < 300_000


@pytest.mark.parametrize(("count", "padding"), [pytest.param(120_000, 0, marks=pytest.mark.slow), (10, 9 << 20)])
def test_a_header_of_names_alone_is_refused(tmp_path: Path, count: int, padding: int):
    names = (b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count))
    header = b"{" + b",".join(names) + b"}" + b" " * padding
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="names of its weights" if count > 10 else "a header of"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["hash of doubled tuples", "a place in the memo", "a byte array"])
def test_so_is_one_of_the_format_before_torch_1_6(tmp_path: Path, name: str):
    torch.save({}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    begin = (tmp_path / "old.ckpt").read_bytes().rpartition(b"\x80\x02}q\x00.\x80\x02]")[0]
    (tmp_path / "old.ckpt").write_bytes(begin + BOMBS[name])
    with pytest.raises(InputError, match=r"old\.ckpt"):
        read_checkpoint(tmp_path / "old.ckpt")


@pytest.mark.parametrize(
    ("elements", "offset", "size", "stride"),
    [
        (1 << 40, 0, (4,), (1,)),
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (1 << 40,), (0,)),
        (4, -1, (2,), (1,)),
        (4, 3, (2,), (-1,)),
        (4, 0, (-1,), (1,)),
        (4, 0, (1 << 62, 1 << 62), (0, 0)),
        (4, 0, (4,), ()),
        (4, 1 << 40, (0,), (1,)),
        (-4, 0, (4,), (1,)),
        (2**61 + 4, 0, (4,), (1,)),
    ],
)
def test_a_tensor_lies_in_its_storage_whatever_the_version_of_torch(
    tmp_path: Path, elements: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
):
    whole = torch.arange(4.0).numpy().tobytes()
    honest = read_checkpoint(archive(tmp_path / "a.ckpt", tensor(4, 1, (3,), (1,)), whole))["state_dict"]["w"]
    assert honest.tolist() == [1, 2, 3]
    with pytest.raises(InputError, match=r"b\.ckpt cannot be read"):
        read_checkpoint(archive(tmp_path / "b.ckpt", tensor(elements, offset, size, stride), whole))


def test_an_archive_that_claims_more_than_it_has_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "zeros.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", PROTO + b"}.")
        file.writestr("a/data/0", bytes(100 << 20))
    with pytest.raises(InputError, match=r"zeros\.ckpt cannot be read .*claims"):
        read_checkpoint(tmp_path / "zeros.ckpt")


@pytest.mark.parametrize("zip_format", [True, False])
def test_views_and_shared_storages_come_back_as_they_were(tmp_path: Path, zip_format: bool):
    whole = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        whole=whole, row=whole[1], turned=whole.t(), none=torch.empty(0, 3), one=torch.tensor(2.0),
        wide=torch.ones(1).expand(3), half=torch.ones(3).bfloat16(), flags=torch.tensor([True, False]),
        number=torch.tensor(1 + 2j), parameter=torch.nn.Parameter(torch.ones(2)),
    )  # fmt: skip
    torch.save({"state_dict": state}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zip_format)
    read = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert list(read) == list(state)
    for name, expected in state.items():
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name], expected)
    read["whole"][1, 0] = 100
    assert read["row"][0] == 100
