"""Archives that are cut off, damaged or longer than they should be, against the whole ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.data.preparation.extraction import extract
from saicinpainting.data.shard_index import describe, read_samples
from saicinpainting.data.sources import SourceError
from saicinpainting.io.archives import MOST_ZEROS, check_name, open_tar, tar_members
from saicinpainting.utils import InputError
from tests.helpers import packed

RNG = np.random.RandomState(0)
FILES = {f"d/{i}.jpg": RNG.bytes(1500 + 100 * i) for i in range(10)}
FILES["d/" + "n" * 150 + ".jpg"] = b"a name that needs a header of its own"
FILES["d/empty.jpg"] = b""


def tar(tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.comment = b"made by a test"
        for name, data in FILES.items():
            archive.writestr(name, data)
    return file.getvalue()


TARS = {"pax": tar(tarfile.PAX_FORMAT), "gnu": tar(tarfile.GNU_FORMAT)}
CHECKED = {
    "gz": gzip.compress(TARS["pax"]),
    "bz2": bz2.compress(TARS["pax"]),
    "xz": lzma.compress(TARS["pax"]),
    "stored": zipped(zipfile.ZIP_STORED),
    "deflated": zipped(zipfile.ZIP_DEFLATED),
}
"""Kinds with checksums of their contents."""
KINDS = {**TARS, **CHECKED}


def end_of_last_header(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()[-1].offset_data


def unpacked(data: bytes, folder: Path) -> dict[str, bytes]:
    """The files that `extract` makes of an archive; InputError if it refuses it."""
    (folder / "archive").write_bytes(data)
    extract(folder / "archive", folder / "out")
    return {f"d/{file.name}": file.read_bytes() for file in (folder / "out").iterdir()}


def refused(data: bytes, folder: Path) -> None:
    """Files that were whole may stay; nothing else may."""
    folder.mkdir()
    with pytest.raises(InputError, match=r"archive is no whole archive: .*; copy it anew") as error:
        unpacked(data, folder)
    assert "\n" not in str(error.value)
    found = {f"d/{file.name}": file.read_bytes() for file in (folder / "out").glob("*")}
    assert found.items() <= FILES.items()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_archives_are_unpacked(kind: str, tmp_path: Path) -> None:
    assert unpacked(KINDS[kind], tmp_path) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_anywhere_is_an_error(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]
    end = end_of_last_header(data) + 512 if kind in TARS else len(data) - 1  # more is zeros without a meaning
    for number, length in enumerate({1, 100, *range(512, end, 512), *range(777, end, 1111), end}):
        refused(data[:length], tmp_path / str(number))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [b"x", b"\0" * 2000 + b"x", RNG.bytes(700)])
def test_what_follows_the_end_is_an_error(kind: str, garbage: bytes, tmp_path: Path) -> None:
    refused(KINDS[kind] + garbage, tmp_path / "a")


@pytest.mark.parametrize("kind", TARS)
def test_a_damaged_header_is_an_error(kind: str, tmp_path: Path) -> None:
    data = TARS[kind]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [info.offset_data - 512 for info in archive]
    for header in headers:
        for byte in (0, 130, 150, 156, 511):
            damaged = bytearray(data)
            damaged[header + byte] ^= 0x55
            refused(bytes(damaged), tmp_path / f"{header} {byte}")
    for header in headers[1:-1]:  # the last is of an empty file
        refused(data[:header] + data[header + 512 :], tmp_path / f"{header} is lost")
        refused(data[:header] + bytes(512) + data[header + 512 :], tmp_path / f"{header} is zeros")


@pytest.mark.parametrize("kind", CHECKED)
def test_a_bit_that_changed_is_an_error_or_of_no_importance(kind: str, tmp_path: Path) -> None:
    data, refusals = CHECKED[kind], 0
    for number, place in enumerate(range(0, len(data), 199)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (number % 8)
        (tmp_path / str(number)).mkdir()
        try:
            assert unpacked(bytes(damaged), tmp_path / str(number)) == FILES  # the time of a file, for example
        except InputError as error:
            refusals += "is no whole archive" in str(error)
    assert refusals > 0.9 * (number + 1)


def test_the_checksum_at_the_end_counts(tmp_path: Path) -> None:
    data = bytearray(CHECKED["gz"])
    data[-5] ^= 1
    refused(bytes(data), tmp_path / "a")


def test_a_compressed_archive_may_have_several_parts(tmp_path: Path) -> None:
    half = len(TARS["pax"]) // 2
    parts = gzip.compress(TARS["pax"][:half]) + gzip.compress(TARS["pax"][half:]) + bytes(1024)
    assert unpacked(parts, tmp_path) == FILES


def test_an_end_of_zeros_is_no_end(tmp_path: Path) -> None:
    refused(TARS["pax"] + bytes(MOST_ZEROS), tmp_path / "a")


def test_a_zip_file_that_lists_fewer_files_than_it_says_is_an_error(tmp_path: Path) -> None:
    data = bytearray(CHECKED["stored"])
    data[data.rindex(b"PK\x05\x06") + 10] += 1
    refused(bytes(data), tmp_path / "a")


def by_position(data: bytes, folder: Path) -> int:
    (folder / "a.tar").write_bytes(data)
    with (folder / "a.tar").open("rb") as file:
        return len(read_samples(file))


def as_a_stream(data: bytes, folder: Path) -> int:
    shard = describe("a.tar", io.BytesIO(data))
    assert shard.bytes == len(data)
    return shard.images


@pytest.mark.parametrize("read", [by_position, as_a_stream])
@pytest.mark.parametrize("kind", TARS)
def test_a_shard_that_is_not_whole_has_no_index(kind: str, read: Callable[[bytes, Path], int], tmp_path: Path) -> None:
    data = TARS[kind]
    assert read(data, tmp_path) == len(FILES)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        header = archive.getmembers()[5].offset
    flipped = bytearray(data)
    flipped[header + 10] ^= 0x55
    cuts = [data[:header], data[: header + 300], data[: header + 900], data[: end_of_last_header(data)]]
    for wrong in (bytes(flipped), *cuts, data + b"x"):
        with pytest.raises((InputError, SourceError), match=r"a\.tar is no whole tar file: "):
            read(wrong, tmp_path)


# ---- made to harm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "./.", "..", "a/../../b", "/a", "a\\b", "a\0b", "n" * 300, "a/" * 600 + "b"])
def test_a_name_that_no_file_can_have_is_refused(name: str):
    check_name("a/./b.jpg")
    with pytest.raises(ValueError, match="its file"):
        check_name(name)


def test_a_sparse_file_is_refused():
    header = tarfile.TarInfo("zeros.jpg").tobuf(tarfile.GNU_FORMAT)
    fields = bytearray(header)
    fields[156:157] = b"S"
    fields[386:410] = b"%011o\0%011o\0" % (0, 0)
    fields[483:495] = b"%011o\0" % (1 << 32)
    fields[148:156] = b"        "
    fields[148:156] = b"%06o\0 " % sum(fields)
    file = io.BytesIO(bytes(fields) + bytes(1024))
    with pytest.raises(tarfile.TarError, match="sparse"), open_tar(file, stream=False) as tar:
        list(tar_members(tar))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_attributes_of_gigabytes_are_refused(kind: bytes):
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 1 << 32
    file = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(tarfile.TarError, match="bytes of attributes"), open_tar(file, stream=True) as tar:
        list(tar_members(tar))


def with_type(name: str, kind: bytes, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def of_parts(kind: bytes) -> bytes:
    """A tar file whose member is sparse in one of the three ways of PAX."""
    words = {
        b"0.0": {b"GNU.sparse.size": b"1000000000000000"},
        b"0.1": {b"GNU.sparse.map": b"0,1", b"GNU.sparse.realsize": b"1000000000000000"},
        b"1.0": {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"},
    }[kind]
    lines = b"".join(b"%d %s=%s\n" % (len(k) + len(v) + 5, k, v) for k, v in words.items())
    parts = b"99999999999\n" + b"1\n" * (1 << 20)  # of which the list never ends
    data = with_type("p", tarfile.XHDTYPE, len(lines)) + lines.ljust(512, b"\0") + with_type("d/a.jpg", b"0", 512)
    return data + (parts if kind == b"1.0" else bytes(1536))


ENCRYPTED = bytearray(packed({"d/a.jpg": b"secret"}, "zip"))
for place in (6, ENCRYPTED.index(b"PK\1\2") + 8):
    ENCRYPTED[place] |= 1
LISTED = b"PK\1\2" + bytes(24) + b"\7\0" + bytes(16) + b"d/a.jpg"
HOSTILE = {
    "an encrypted zip": bytes(ENCRYPTED),
    "zeros that are no image": packed({"d/a.jpg": bytes(80 << 20)}),
    "zeros that are hidden": packed({"d/.a.jpg": bytes(80 << 20)}),
    "zeros at the end": bz2.compress(TARS["gnu"] + bytes(4 << 20)),
    "an image with much behind it": packed({"d/a.bmp": b"BM" + bytes(80 << 20)}, "zip"),
    "folders without end": gzip.compress(with_type("d", tarfile.DIRTYPE) * 140_000, 1),
    "a file that is a folder": packed({"d/a.jpg": b"1", "d/a.jpg/b.jpg": b"2"}, "zip"),
    "a folder that is a file": packed({"d/a.jpg/b.jpg": b"2", "d/a.jpg": b"1"}, "zip"),
    "attributes of attributes": bz2.compress((with_type("p", tarfile.XHDTYPE, 1 << 16) + bytes(1 << 16)) * 400),
    "a list of millions of files": b"PK\3\4" + LISTED * 700_000 + b"PK\5\6" + bytes(8)
    + (len(LISTED) * 700_000).to_bytes(4, "little") + b"\4\0\0\0\0\0",
    **{f"sparse {kind.decode()}": bz2.compress(of_parts(kind)) for kind in (b"0.0", b"0.1", b"1.0")},
}  # fmt: skip


LONG = "folders without end"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == LONG)) for n in HOSTILE])
def test_an_archive_that_is_made_to_harm_is_refused(name: str, tmp_path: Path):
    (tmp_path / "archive").write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match="archive is no whole archive") as error:
        extract(tmp_path / "archive", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file()) < 1 << 20


@pytest.mark.parametrize(("kind", "ending"), [("zip", "bmp"), ("zip", "png"), ("xz", "bmp")])
def test_masks_of_one_colour_are_unpacked_however_small_they_are_packed(kind: str, ending: str, tmp_path: Path):
    file = io.BytesIO()
    Image.new("RGB", (1024, 1024)).save(file, ending)
    masks = {f"d/{i}.{ending}": file.getvalue() for i in range(40)}
    (tmp_path / "archive").write_bytes(packed(masks, kind))
    assert ending == "png" or len(masks) * len(file.getvalue()) > (64 << 20) + 4 * (tmp_path / "archive").stat().st_size
    assert extract(tmp_path / "archive", tmp_path / "out") == 40
    assert (tmp_path / "out" / f"39.{ending}").read_bytes() == file.getvalue()
