"""Shards written, indexed, read from a disk and over http, and compared with the webdataset library."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.data.datasets import make_train_dataset
from saicinpainting.data.sampler import SampleKey, ShardShuffler, TrainSampler
from saicinpainting.data.shard_index import describe, expand, read_index, write_index
from saicinpainting.data.shard_writing import write_shards
from saicinpainting.data.shards import ShardCache, ShardSource
from saicinpainting.data.sources import FolderSource, SourceError
from saicinpainting.io import download
from saicinpainting.io.folders import IMAGE_SUFFIXES
from saicinpainting.utils import InputError
from tests.helpers import photo
from tests.server import serving

IMAGES = 23


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(IMAGES):
        file = folder / "train" / f"class{i % 3}" / f"img.{i:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo("astronaut.png", 70, 18 * i)).save(file)
        label = folder / "segm" / f"class{i % 3}" / f"img.{i:02d}.png"
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((70, 70), i, np.uint8)).save(label)
    return folder


def written(photos: Path, outdir: Path, **settings) -> Path:
    source = FolderSource(photos / "train", labels={"segm": photos / "segm"})
    write_shards(source, outdir, root=photos / "train", **{"shard_images": 5, "shuffle": 0, **settings})
    return outdir


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory) -> Path:
    return written(photos, tmp_path_factory.mktemp("shards") / "set")


def test_shards_hold_every_image_byte_by_byte(photos, shards):
    source = ShardSource(str(shards))
    assert len(source) == IMAGES
    assert source.labels == ("segm",)
    files = sorted(file.read_bytes() for file in (photos / "train").rglob("*.jpg"))
    assert sorted(source.read(i) for i in range(IMAGES)) == files
    assert [source.near(i) for i in (0, 4, 5, 22)] == [range(5), range(5), range(5, 10), range(20, 23)]
    number = int(source.name(0).rpartition("img_")[2])
    label = Image.open(io.BytesIO(source.read_label(0, "segm")))
    assert np.asarray(label).max() == number


def test_the_webdataset_library_reads_them_and_they_read_its(photos, shards, tmp_path):
    theirs = webdataset.WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)
    samples = list(theirs)
    ours = ShardSource(str(shards))
    assert [sample["jpg"] for sample in samples] == [ours.read(i) for i in range(IMAGES)]
    assert [sample["segm.png"] for sample in samples] == [ours.read_label(i, "segm") for i in range(IMAGES)]
    with webdataset.ShardWriter(str(tmp_path / "wds-%03d.tar"), maxcount=4, verbose=0) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{i:04d}", "jpg": sample["jpg"], "json": {"number": i}})
    found = []
    for place in expand([str(tmp_path / "wds-{000..005}.tar")]):
        with open(place, "rb") as file:
            found.append(describe(Path(place).name, file))
    write_index(tmp_path / "index.json", found)
    read = ShardSource(str(tmp_path / "index.json"))
    assert [read.read(i) for i in range(IMAGES)] == [sample["jpg"] for sample in samples]
    assert read.labels == ()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_kind_of_training_image_may_be_in_a_shard(tmp_path, suffix):
    file = tmp_path / "photos" / f"a{suffix}"
    file.parent.mkdir()
    Image.fromarray(photo("astronaut.png", 70)).save(file)
    write_shards(FolderSource(tmp_path / "photos"), tmp_path / "set", root=tmp_path / "photos")
    assert ShardSource(str(tmp_path / "set")).read(0) == file.read_bytes()


def test_a_cache_that_cannot_be_written_stops_at_once(shards, tmp_path):
    (tmp_path / "lama-shards").write_bytes(b"")
    with serving(shards) as server:
        samples = make_train_dataset(kind="shards", indir=server.address, cache_dir=str(tmp_path), out_size=64)
        with pytest.raises(SourceError, match=r"data\.train\.cache_dir: .*lama-shards: file exists; check the rights"):
            samples[0]


def test_a_key_in_the_address_of_an_index_holds_for_its_shards(shards, tmp_path, caplog):
    """And is not told."""
    caplog.set_level("INFO")
    with serving(shards) as server:
        server.query = "token=hidden/1"
        for address in (f"{server.address}?token=hidden/1", f"{server.address}/index.json?token=hidden/1"):
            data = make_train_dataset(kind="shards", indir=address, cache_dir=str(tmp_path), out_size=64)
            assert data.source.read(0) == ShardSource(str(shards)).read(0)
            assert data.source.name(0).startswith(f"{server.address}/shard-000000.tar/")
        assert "hidden" not in f"{caplog.text} {data.source.name(0)} {list(tmp_path.rglob('*'))}"
        with pytest.raises(InputError, match="cannot read the index") as error:
            ShardSource(f"{server.address}/other?token=hidden/1", cache_dir=str(tmp_path))
        assert "hidden" not in str(error.value)


def test_an_index_in_the_working_directory(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert ShardSource("index.json").read(0) == ShardSource(str(shards)).read(0)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.slow
def test_what_an_interruption_leaves_is_gone_on_with(photos, shards, tmp_path, n_jobs, monkeypatch):
    """As if killed in the third shard: two are done, one is a part; the result is that of one go."""
    whole = {file.name: file.read_bytes() for file in shards.glob("*.tar")}
    assert len(whole) == 5
    real, count = os.replace, [0]

    def dies(src, dst):
        count[0] += str(dst).endswith(".tar")
        if count[0] == 3:
            raise KeyboardInterrupt
        real(src, dst)

    with monkeypatch.context() as patch:
        patch.setattr("saicinpainting.data.shard_writing.os.replace", dies)
        with pytest.raises(KeyboardInterrupt):
            written(photos, tmp_path / "set")
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "set").glob("*.tar")}
    assert len(kept) == 2
    assert not (tmp_path / "set" / "index.json").exists()
    written(photos, tmp_path / "set", n_jobs=n_jobs)
    files = {file.name: file.read_bytes() for file in (tmp_path / "set").glob("*.tar")}
    assert files == whole
    assert all((tmp_path / "set" / name).stat().st_mtime_ns == time for name, time in kept.items())
    names = {file.name for file in (tmp_path / "set").iterdir()}
    assert names == {*whole, "index.json", "SHA256SUMS", ".shards.json", ".shards.jsonl"}
    assert read_index(str(tmp_path / "set")) == read_index(str(shards))


def test_two_sets_are_not_mixed(photos, shards, tmp_path):
    with pytest.raises(InputError, match=r"holds shards made of something else .*write to another folder"):
        written(photos, shards, shuffle=1)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(InputError, match="is not empty and holds no shards begun here"):
        written(photos, tmp_path)


def test_the_order_of_a_pass_keeps_to_few_shards():
    sizes = [100] * 40
    shuffler = ShardShuffler(sizes, window=2)
    drawn = shuffler.draw(np.random.RandomState(0))
    assert sorted(drawn) == list(range(4000))
    together = [len(set(drawn[i : i + 200] // 100)) for i in range(0, 4000, 200)]
    assert max(together) <= 2 * ShardShuffler.LANES + ShardShuffler.LANES  # of two windows where one ends
    for rank in range(4):  # each of four processes reads its own quarter of the shards
        keys = [key.image // 100 for key in TrainSampler(4000, shuffler=shuffler, rank=rank, world_size=4)]
        assert len(set(keys)) == 10
    for rank in range(3):  # 3 does not divide the number of lanes: each of three reads all shards
        keys = [key.image // 100 for key in TrainSampler(4000, shuffler=shuffler, rank=rank, world_size=3)]
        assert len(set(keys)) == 40
    few = ShardShuffler([3, 1, 2], window=1).draw(np.random.RandomState(1))
    assert sorted(few) == list(range(6))


def test_epochs_of_a_stated_length_go_on_through_the_passes():
    whole = [key for epoch in range(2) for key in _keys(10, epoch)]
    cut = [key for epoch in range(5) for key in _keys(10, epoch, epoch_images=4)]
    assert cut == whole
    assert [key.image for key in _keys(4, 0, epoch_images=10)][:4] != [0, 1, 2, 3]
    assert {key.image for key in _keys(4, 0, epoch_images=10)[:4]} == {0, 1, 2, 3}


def _keys(images: int, epoch: int, **settings) -> list[SampleKey]:
    sampler = TrainSampler(images, **settings)
    sampler.set_epoch(epoch)
    return list(sampler)


def module(place: str, workers: int = 0, **train) -> InpaintingDataModule:
    settings = {
        "kind": "shards",
        "indir": place,
        "window": 1,
        "out_size": 64,
        "transform_variant": "distortions",
        "mask_gen_kwargs": {"box_proba": 0, "irregular_kwargs": {"max_len": 20, "max_width": 9}},
        "dataloader_kwargs": {"batch_size": 4, "shuffle": True, "num_workers": workers},
    }
    data = InpaintingDataModule(train={**settings, **train}, val={}, seed=5)
    data._val_sets = []  # not of interest here
    return data


def batches(data: InpaintingDataModule) -> list[torch.Tensor]:
    return [torch.cat([b["image"], b["mask"], b["segm"][:, None]], 1) for b in data.train_dataloader()]


@pytest.fixture
def read(shards) -> list[torch.Tensor]:
    return batches(module(str(shards)))


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_the_workers(shards, read, workers):
    for ours, expected in zip(batches(module(str(shards), workers)), read, strict=True):
        assert torch.equal(ours, expected)


def test_a_run_goes_on_within_an_epoch(shards, read):
    data = module(str(shards))
    data.begin_at(0, 8)
    assert torch.equal(torch.cat(batches(data)), torch.cat(read)[8:])
    assert sorted(torch.cat(read)[:, 4, 0, 0].tolist()) == list(range(IMAGES))  # every image once


def test_over_http_the_batches_are_the_same(shards, read, tmp_path):
    with serving(shards) as server:
        settings = {"cache_dir": str(tmp_path / "cache")}
        assert all(map(torch.equal, batches(module(server.address, 2, **settings)), read))
        assert sum(path.endswith(".tar") for path, _ in server.requests) == 5  # once for both workers
        seen = len(server.requests)
        batches(module(f"{server.address}/index.json", **settings))
        assert [path for path, _ in server.requests[seen:]] == ["index.json"]


def test_a_cut_connection_is_gone_on_with(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with serving(shards) as server:
        source = ShardSource(server.address, cache_dir=str(tmp_path))
        server.cuts, server.cut_after = 2, 5000
        source.read(0)
        asked = [first for path, first in server.requests if path == "shard-000000.tar"]
        assert asked == [0, 5000, 10000]


def test_shards_that_cannot_be_had_stop_at_once(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in shards.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damaged = bytearray((copy / "shard-000001.tar").read_bytes())
    damaged[2000] ^= 1
    (copy / "shard-000001.tar").write_bytes(damaged)
    (copy / "shard-000002.tar").unlink()
    with serving(copy) as server:
        samples = make_train_dataset(kind="shards", indir=server.address, cache_dir=str(tmp_path / "c"), out_size=64)
        with pytest.raises(SourceError, match=r"shard-000001\.tar has sha256 .*, expected"):
            samples[5]
        with pytest.raises(SourceError, match=r"shard-000002\.tar \(HTTP Error 404"):
            samples[10]
        with pytest.raises(InputError, match=r"data\.train\.cache_dir: shards behind an address need a folder"):
            ShardSource(server.address)
    with pytest.raises(InputError, match=r"the shard .*shard-000002\.tar is missing \(1 in all\)"):
        ShardSource(str(copy))
    with (shards / "shard-000000.tar").open("rb") as file:
        (copy / "shard-000002.tar").write_bytes(file.read())
    (copy / "shard-000001.tar").write_bytes(damaged[:-512])
    with pytest.raises(InputError, match=r"shard-000001\.tar has \d+ bytes, its index says \d+; copy the shard anew"):
        ShardSource(str(copy))
    with pytest.raises(InputError, match=r"cannot read the index of the shards"):
        ShardSource(str(tmp_path / "nowhere"))


def test_the_cache_keeps_within_its_bounds(shards, tmp_path):
    index = read_index(str(shards))
    largest = max(shard.bytes for shard in index)
    cache = ShardCache(tmp_path, 3 * largest)
    with serving(shards) as server:
        for shard in [*index, index[-1], index[-2]]:
            cache.open(f"{server.address}/{shard.name}", shard).close()
        assert len(server.requests) == 5
    kept = {file.stem for file in tmp_path.glob("*.tar")}
    assert kept == {shard.sha256 for shard in index[-len(kept) :]}
    assert 2 <= len(kept) <= 3


def test_the_cache_deletes_nothing_but_its_own(shards, tmp_path):
    own = tmp_path / "lama-shards"
    (own / "folder.tar").mkdir(parents=True)
    (tmp_path / "elsewhere.tar").write_bytes(b"the user's")
    mine = [tmp_path / "my_backup.tar", tmp_path / f"{'0' * 64}.tar", own / "my_backup.tar", own / "a.tar.part"]
    for file in mine:
        file.write_bytes(bytes(300_000))
        os.utime(file, (1, 1))
    (own / f"{'0' * 64}.tar").symlink_to(tmp_path / "elsewhere.tar")
    with serving(shards) as server:
        source = ShardSource(server.address, cache_dir=str(tmp_path), cache_gb=1e-9)
        for image in range(IMAGES):
            source.read(image)
    assert all(file.stat().st_size == 300_000 for file in mine)
    assert (own / "folder.tar").is_dir()
    assert (own / f"{'0' * 64}.tar").read_bytes() == b"the user's"
    kept = [file for file in own.glob("*.tar") if file.is_file() and not file.is_symlink() and file not in mine]
    assert len(kept) == 1  # it did make room for each


@pytest.mark.parametrize("change", [{"sha256": "../../elsewhere"}, {"bytes": "many"}, {"images": -1}, {"name": 3}])
def test_an_index_with_impossible_entries_is_refused(shards, tmp_path, change):
    content = json.loads((shards / "index.json").read_text())
    content["shards"][2] |= change
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.json is no index of shards \(.*make it with bin/make_shards\.py"):
        read_index(str(tmp_path))


def reads_all_again_and_again(source: ShardSource, seed: int, rounds: int) -> None:
    rng = np.random.RandomState(seed)
    for _ in range(rounds):
        own = copy.copy(source)  # has no shard open
        for i in rng.permutation(len(source)):
            own.read(int(i))


@pytest.mark.slow
def test_processes_that_make_room_do_not_disturb_each_other(shards, tmp_path):
    largest = max(shard.bytes for shard in read_index(str(shards)))
    with serving(shards) as server:
        source = ShardSource(server.address, cache_dir=str(tmp_path), cache_gb=1.5 * largest / 1e9)
        context = multiprocessing.get_context("fork")
        readers = [context.Process(target=reads_all_again_and_again, args=(source, seed, 15)) for seed in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0, 0, 0]


@pytest.mark.parametrize("times", [1, 2])
def test_a_shard_that_others_remove_is_fetched_again(shards, tmp_path, monkeypatch, times):
    real, count = os.utime, [0]

    def others_are_faster(path):
        count[0] += 1
        if count[0] <= times:
            os.unlink(path)
        real(path)

    with serving(shards) as server:
        source = ShardSource(server.address, cache_dir=str(tmp_path))
        monkeypatch.setattr("saicinpainting.data.shards.os.utime", others_are_faster)
        if times == 1:
            assert source.read(0) == ShardSource(str(shards)).read(0)
        else:
            with pytest.raises(SourceError, match=r"was removed as soon as it was there; set data\.train\.cache_gb"):
                source.read(0)


def test_samples_need_one_image(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name in ("a.jpg", "a.png"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match=r"sample a has 2 images \(jpg, png\)"), (tmp_path / "bad.tar").open("rb") as f:
        describe("bad.tar", f)


def test_a_file_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a [1].tar", "{0..1}.tar"):
        (tmp_path / name).touch()
        assert list(expand([str(tmp_path / name)])) == [str(tmp_path / name)]
