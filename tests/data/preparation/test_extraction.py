"""Unpacking: what is left out, what is refused, and what an interruption leaves."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from saicinpainting.data.preparation import extraction
from saicinpainting.data.preparation.extraction import extract
from saicinpainting.utils import InputError


def tar(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for other in others:
            archive.addfile(other)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


FILES = {f"data_large/a/abbey/{i:08d}.jpg": bytes([i]) * (100 + i) for i in range(20)}


def unpacked(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


EXPECTED = {name.removeprefix("data_large/"): data for name, data in FILES.items()}


def test_tar_and_zip(tmp_path):
    link = tarfile.TarInfo("data_large/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hidden = {"data_large/.DS_Store": b"x", "data_large/a/._1.jpg": b"y"}
    assert extract(tar(tmp_path / "a.tar", {**FILES, **hidden}, link), tmp_path / "tar") == 20
    assert unpacked(tmp_path / "tar") == EXPECTED
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in {**FILES, "__MACOSX/data_large/x.jpg": b"z"}.items():
            archive.writestr(name, data)
    assert extract(tmp_path / "a.zip", tmp_path / "zip") == 20
    assert unpacked(tmp_path / "zip") == EXPECTED


def test_what_is_unpacked_is_not_remembered(tmp_path, monkeypatch):
    """Of millions of files the entries alone would fill gigabytes."""
    real, remembered = extraction._of_tar, []

    def watched(archive):
        for member in real(archive):
            remembered.append(len(archive.members))
            yield member

    monkeypatch.setattr(extraction, "_of_tar", watched)
    assert extract(tar(tmp_path / "a.tar", FILES), tmp_path / "out") == 20
    assert max(remembered) <= 1
    assert unpacked(tmp_path / "out") == EXPECTED


def test_files_without_folders_keep_their_names(tmp_path):
    extract(tar(tmp_path / "a.tar", {"1.jpg": b"a", "./x/2.jpg": b"b"}), tmp_path / "out")
    assert unpacked(tmp_path / "out") == {"1.jpg": b"a", "2.jpg": b"b"}


def test_an_interruption_leaves_whole_files_and_is_gone_on_with(tmp_path, monkeypatch):
    archive, written = tar(tmp_path / "a.tar", FILES), []
    real = extraction.shutil.copyfileobj

    def dies(source, file, length):
        if len(written) == 7:
            file.write(b"half")
            raise KeyboardInterrupt
        written.append(file.name)
        real(source, file, length)

    monkeypatch.setattr(extraction.shutil, "copyfileobj", dies)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "out")
    whole = {name: data for name, data in unpacked(tmp_path / "out").items() if not name.endswith(".part")}
    assert len(whole) == 7
    assert whole.items() <= EXPECTED.items()
    written = [""] * 8
    extract(archive, tmp_path / "out")
    assert len(written) == 8 + 13  # the seven are not written again
    assert unpacked(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "data/../../evil.jpg", "data\\..\\evil.jpg"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"would lie outside of the folder"):
        extract(tar(tmp_path / "a.tar", {name: b"x"}), tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", [".", "./"])
def test_a_file_without_a_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"has no name; this is not the right archive"):
        extract(tar(tmp_path / "a.tar", {name: b"x"}), tmp_path / "out" / "deep")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["a.tar"]


def test_names_may_be_as_long_as_the_disk_takes(tmp_path):
    name = "n" * 251 + ".jpg"
    assert extract(tar(tmp_path / "a.tar", {f"d/{name}": b"x"}), tmp_path / "out") == 1
    assert unpacked(tmp_path / "out") == {name: b"x"}


def test_broken_archives_are_named(tmp_path):
    whole = tar(tmp_path / "a.tar", {name: data * 50 for name, data in FILES.items()}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("this is no archive")
    for name in ("cut.tar", "text.tar"):
        with pytest.raises(InputError, match=rf"{name} is no whole archive"):
            extract(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["README.txt", "faces/a/1.jpg", "faces/b/1.jpg", "__MACOSX/faces/._1.jpg"],
            {"README.txt", "a/1.jpg", "b/1.jpg"},
        ),
        (["train/1.jpg", "val/1.jpg"], {"train/1.jpg", "val/1.jpg"}),
        (["1.jpg", "more/1.jpg"], {"1.jpg", "more/1.jpg"}),
    ],
)
def test_images_of_several_folders_do_not_become_one(kind, names, expected, tmp_path):
    archive = tmp_path / f"a.{kind}"
    files = {name: name.encode() for name in names}
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, data in files.items():
                packed.writestr(name, data)
    else:
        tar(archive, files)
        if kind == "tar.gz":
            archive.write_bytes(gzip.compress(archive.read_bytes()))
    for _ in range(2):
        assert extract(archive, tmp_path / "out", strip=None) == len(expected)
        assert unpacked(tmp_path / "out").keys() == expected
