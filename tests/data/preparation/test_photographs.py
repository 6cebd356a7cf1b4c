"""Photographs of packages: the table, Debian's packages without the network, folders."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from saicinpainting.data.preparation.photographs import (
    ROLES,
    Photograph,
    draw_roles,
    find_photographs,
    read_table,
    unpack_debian,
)
from saicinpainting.utils import InputError
from tests.helpers import ROOT, make_deb, photo

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is Debian's")
FREE = {"CC0-1.0", "public domain", "MIT", "BSD-3-Clause", "Apache-2.0", "LGPL-3.0", "GPL-2.0-or-later"}


def of_debian(file: str, package: str = "pictures", role: str = "train") -> Photograph:
    return Photograph(Path(file).stem, role, "debian", package, f"usr/share/{file}", "Ann", "CC0-1.0")


def fake_apt(folder: Path, script: str, monkeypatch) -> None:
    """A machine whose apt-get is a shell script."""
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_table_names_author_and_free_licence_of_each_photograph_and_holds_enough_back():
    table = read_table()
    roles = Counter(photograph.role for photograph in table)
    assert set(roles) == set(ROLES)
    assert roles["held_out"] == 24
    assert roles["train"] >= 40
    assert len({photograph.name for photograph in table}) == len(table)
    assert len({(photograph.package, photograph.file) for photograph in table}) == len(table)
    assert all(photograph.author for photograph in table)
    assert {p.licence for p in table if p.role == "train" and not p.licence.startswith("CC-BY")} <= FREE
    assert not [p for p in table if "NC" in p.licence or "ND" in p.licence]


def test_what_the_demo_shows_is_held_out():
    held_out = {Path(p.file).name for p in read_table() if p.role == "held_out"}
    assert {"astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "flower.jpg"} <= held_out


def test_the_model_card_has_the_table():
    rows = [
        f"| {p.name} | {role.replace('_', ' ')} | {p.package} | {p.file} | {p.author} | {p.licence} |"
        for role in ROLES
        for p in read_table()
        if p.role == role
    ]
    head = ["| name | role | package | file | author | licence |", "| --- | --- | --- | --- | --- | --- |"]
    assert "\n".join(head + rows) in (ROOT / "docs" / "lama-small.md").read_text(encoding="utf-8")


def test_installed_wheels_have_their_photographs(tmp_path):
    wheels = [photograph for photograph in read_table() if photograph.kind == "wheel"]
    found, missing = find_photographs(wheels, tmp_path)
    assert not missing
    assert {one.photograph.name for one in found} == {photograph.name for photograph in wheels}
    facts = found[0].describe()
    assert facts["sha256"] == hashlib.sha256(found[0].path.read_bytes()).hexdigest()
    assert facts["version"]


@needs_dpkg
def test_a_package_is_fetched_once_and_unpacked_without_installing_it(tmp_path, monkeypatch):
    deb = make_deb(tmp_path / "served", "pictures", {"usr/share/a.png": photo(size=48)})
    fake_apt(tmp_path / "bin", f'echo "$@" >> {tmp_path}/calls; cp {deb} .', monkeypatch)
    for _ in range(2):
        folder, version = unpack_debian("pictures", tmp_path / "cache")
        assert version == "1.0-1"
        with Image.open(folder / "usr/share/a.png") as image:
            assert image.size == (48, 48)
    assert (tmp_path / "calls").read_text() == "download pictures\n"


@needs_dpkg
def test_a_package_file_that_lies_in_the_cache_is_used_and_a_broken_one_named(tmp_path):
    cache = tmp_path / "cache"
    make_deb(cache, "pictures", {"usr/share/a.png": photo(size=48)})
    assert find_photographs([of_debian("a.png")], cache)[1] == []
    (cache / "broken_1_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(InputError, match=r"dpkg-deb -x .*failed .*broken_1_all\.deb may be broken: remove it"):
        unpack_debian("broken", cache)
    assert not (cache / "unpacked" / "broken_1_all").exists()


@needs_dpkg
def test_several_versions_in_the_cache_are_refused_until_one_is_chosen(tmp_path):
    """By spelling 1.9 would come after 1.10."""
    first = make_deb(tmp_path, "pictures", {"usr/share/a.png": photo(size=48)})
    first.rename(tmp_path / "pictures_1.10-1_all.deb")
    shutil.copy(tmp_path / "pictures_1.10-1_all.deb", tmp_path / "pictures_1.9-1_all.deb")
    with pytest.raises(InputError, match=r"one file of the package pictures, found pictures_1\.10-1.*1\.9-1_all\.deb"):
        unpack_debian("pictures", tmp_path)
    (tmp_path / "pictures_1.9-1_all.deb").unlink()
    assert unpack_debian("pictures", tmp_path)[1] == "1.10-1"


def test_without_package_lists_the_error_names_apt_get_update(tmp_path, monkeypatch):
    fake_apt(tmp_path / "bin", 'echo "E: Unable to locate package $2" >&2; exit 100', monkeypatch)
    with pytest.raises(InputError) as error:
        find_photographs([of_debian("a.png"), of_debian("b.png", "others")], tmp_path / "cache")
    assert str(error.value).startswith(
        "apt-get download pictures failed (E: Unable to locate package pictures); run `apt-get update` first if it was "
        "never run (and 1 more); --skip-missing goes on without"
    )


def test_elsewhere_than_on_debian_the_error_says_what_else_can_be_done(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"apt-get is not here.*--no-debian leaves out.*--photos FOLDER adds"):
        find_photographs([of_debian("a.png")], tmp_path / "cache")


@needs_dpkg
def test_what_a_release_does_not_have_is_skipped_where_that_is_asked_for(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    make_deb(cache, "pictures", {"usr/share/a.png": photo(size=48)})
    fake_apt(tmp_path / "bin", 'echo "E: Unable to locate package $2" >&2; exit 100', monkeypatch)
    table = [of_debian("a.png"), of_debian("b.png"), of_debian("c.png", "others")]
    found, missing = find_photographs(table, cache, skip_missing=True)
    assert [one.photograph.name for one in found] == ["a"]
    assert missing[0] == "pictures 1.0-1 has no usr/share/b.png"
    assert "Unable to locate package others" in missing[1]
    with pytest.raises(InputError, match=r"pictures 1\.0-1 has no usr/share/b\.png \(and 1 more\)"):
        find_photographs(table, cache)


def test_packages_of_debian_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_photographs([of_debian("a.png")], tmp_path, debian=False) == ([], [])


def test_of_a_folder_a_quarter_at_most_is_held_out_and_the_draw_follows_the_seed(tmp_path):
    for i in range(16):
        Image.fromarray(photo(size=32)).save(tmp_path / f"{i}.png")

    def roles(seed: int) -> list[str]:
        return [one.photograph.role for one in draw_roles(tmp_path, held_out=24, val=8, seed=seed)]

    assert Counter(roles(0)) == {"train": 10, "held_out": 4, "val": 2}
    drawn = "".join(role[0] for role in roles(0))
    assert drawn == "httttvhttttthhvt"  # written down once: the same in every version of numpy
    assert roles(0) != roles(1)
    facts = draw_roles(tmp_path, held_out=0, val=0, seed=0)[0].describe()
    assert (facts["package"], facts["file"]) == ("own photographs", "0.png")  # no path of this machine
    none_held_out = draw_roles(tmp_path, held_out=0, val=0, seed=0)
    assert {one.photograph.role for one in none_held_out} == {"train"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no photographs in it"):
        draw_roles(tmp_path / "empty", held_out=1, val=1, seed=0)
