"""Folders: batches of equal sizes, interruptions, results of others, images that cannot be read."""

from __future__ import annotations

import errno
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.inference.folders import origin, predict_folder
from saicinpainting.io.extras import ImageExtras
from saicinpainting.io.images import write_image
from saicinpainting.io.ranks import Ranks
from saicinpainting.utils import InputError
from tests.helpers import ROOT, photo, write_run
from tests.ranks import content, in_threads
from tests.samples import Red, refining, write_pairs

SIZES = ((40, 56), (64, 64), (33, 50), (64, 48))
BROKEN = {7: "it is no image", 30: "truncated", 55: "is 48x64 pixels but"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred images of four sizes in nested folders, three of which are of no use."""
    root = tmp_path_factory.mktemp("mixed")
    for i in range(100):
        height, width = SIZES[i % 4]
        folder = root / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 10 + i % 20, 8:25] = 255
        Image.fromarray(photo("astronaut.png", 96, i)[:height, :width]).save(folder / f"{i:03}.png")
        Image.fromarray(mask).save(folder / f"{i:03}_mask000.png")
    (root / "part1" / "007.png").write_text("no image")
    half = (root / "part0" / "030.png").read_bytes()
    (root / "part0" / "030.png").write_bytes(half[: len(half) // 2])
    Image.new("L", (10, 10)).save(root / "part1" / "055_mask000.png")
    return root


def run(mixed: Path, out: Path, fill: Red, **settings: Any) -> Any:
    dataset = InpaintingDataset(mixed, img_suffix=".png", pad_out_to_modulo=8)
    return predict_folder(fill, dataset, mixed, out, made_by={"model": "red"}, **settings)


def test_a_hundred_mixed_images_interrupted_twice(mixed: Path, tmp_path: Path) -> None:
    fills = [Red(30), Red(30), Red()]
    for fill in fills[:2]:
        with pytest.raises(KeyboardInterrupt):
            run(mixed, tmp_path, fill, batch_size=4)
    there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    assert len(there) >= 56
    summary = run(mixed, tmp_path, fills[2], batch_size=4)
    assert (len(summary.written) + summary.kept, summary.kept) == (97, len(there))
    assert str(summary) == f"{len(summary.written)} images written, {summary.kept} were there already, 3 skipped"
    for number, reason in BROKEN.items():
        assert re.search(reason, summary.skipped[f"part{number % 3}/{number:03}_mask000.png"])
    # Each image was filled and written once, in batches of one size.
    assert sum(shape[0] for fill in fills for shape in fill.batches) == 97
    assert {shape[0] for fill in fills for shape in fill.batches} >= {4}
    assert all(file.stat().st_mtime_ns == time for file, time in there.items())
    assert not list(tmp_path.rglob("*.part"))
    for file in tmp_path.rglob("*.png"):
        image = np.asarray(Image.open(mixed / file.relative_to(tmp_path).with_name(file.name.replace("_mask000", ""))))
        hole = np.asarray(Image.open(mixed / file.relative_to(tmp_path))) > 0
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.where(hole[..., None], [255, 0, 0], image))


def test_ranks_share_the_batches_of_one_process(mixed: Path, tmp_path: Path) -> None:
    """Three ranks, of which the first gets one summary of all; images that are of no use are named once."""
    alone = Red()
    expected = run(mixed, tmp_path / "alone", alone, batch_size=4)
    fills = [Red() for _ in range(3)]
    summary, *_ = in_threads(
        3, lambda ranks: run(mixed, tmp_path / "out", fills[ranks.rank], batch_size=4, ranks=ranks)
    )
    assert sorted(shape for fill in fills for shape in fill.batches) == sorted(alone.batches)
    assert all(len(fill.batches) > len(alone.batches) // 3 - 2 for fill in fills)
    assert (str(summary), summary.skipped) == (str(expected), expected.skipped)
    assert content(tmp_path / "out") == content(tmp_path / "alone")
    assert run(mixed, tmp_path / "out", Red(), batch_size=4).kept == 97


def test_a_rank_with_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on another machine, whose folder of the same name is another."""
    indir = write_pairs(tmp_path / "in", *[(16, 16)] * 2)
    names = [f"{i:03}_mask000.png" for i in range(3)]
    monkeypatch.setattr(Ranks, "share", lambda *_: {"left": [0], "batches": [[0]], "names": names})
    with pytest.raises(
        InputError, match=r"in: rank 1 finds other images or masks than rank 0; all need the same folder"
    ):
        fill_pairs(indir, tmp_path / "out", Red(), ranks=Ranks(1, 2))


def of_all(batch: dict[str, Any]) -> torch.Tensor:
    """Fills with what the whole batch decides, as rounding does in a network."""
    return torch.where(batch["mask"] > 0, batch["image"].mean(), batch["image"])


def test_a_batch_of_which_a_part_is_there_is_computed_whole(tmp_path: Path) -> None:
    sizes = [(16, 16), (24, 16), (16, 16), (16, 24)] * 5
    indir = write_pairs(tmp_path / "in", *sizes)
    fill_pairs(indir, tmp_path / "whole", of_all, batch_size=3)
    fill_pairs(indir, tmp_path / "out", of_all, batch_size=3)
    gone = [tmp_path / "out" / f"{i:03}_mask000.png" for i in (2, 5, 6, 19)]
    for file in gone:
        file.unlink()
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.png")}
    summary = fill_pairs(indir, tmp_path / "out", of_all, batch_size=3)
    assert sorted(summary.written) == gone
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())


def test_workers_read_the_same(mixed: Path, tmp_path: Path) -> None:
    summary = run(mixed, tmp_path, Red(), batch_size=8, num_workers=2)
    assert (len(summary.written), len(summary.skipped)) == (97, 3)


def test_results_of_something_else_are_made_anew(mixed: Path, tmp_path: Path, caplog) -> None:
    run(mixed, tmp_path / "out", Red())
    dataset = InpaintingDataset(mixed, img_suffix=".png", pad_out_to_modulo=8)
    summary = predict_folder(Red(), dataset, mixed, tmp_path / "out", made_by={"model": "blue"})
    assert (len(summary.written), summary.kept) == (97, 0)
    assert "97 results of another checkpoint or setting (model: red, now blue) are made anew" in caplog.text
    summary = run(mixed, tmp_path / "out", Red(), existing="overwrite")
    assert (len(summary.written), summary.kept) == (97, 0)
    with pytest.raises(InputError, match=r"existing: unknown value 'kepe'; known: keep, overwrite"):
        run(mixed, tmp_path / "out", Red(), existing="kepe")


def test_files_of_unknown_origin_are_protected(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", (16, 16), (16, 16)), tmp_path / "out"
    out.mkdir()
    (out / "000_mask000.png").write_text("mine")
    with pytest.raises(InputError, match=r"out holds 1 files that are not known .* such as 000_mask000.png"):
        fill_pairs(indir, out, Red())
    assert (out / "000_mask000.png").read_text() == "mine"
    (out / "000_mask000.png").rename(out / "mine")
    fill_pairs(indir, out, Red())
    for file in (".predicted.json", ".predicted.jsonl"):
        (out / file).unlink()
    with pytest.raises(InputError, match="out holds 2 files that are not known"):
        fill_pairs(indir, out, Red(), made_by="B")
    fill_pairs(indir, out, Red(), existing="overwrite")
    assert fill_pairs(indir, out, Red()).kept == 2


def fill_pairs(indir: Path, out: Path, fill: Red, made_by: str = "A", **settings: Any) -> Any:
    dataset = InpaintingDataset(indir, img_suffix=".png")
    return predict_folder(fill, dataset, indir, out, made_by={"model": made_by}, **settings)


def test_an_interrupted_start_leaves_nothing_of_before(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", *[(16, 16)] * 5), tmp_path / "out"
    fill_pairs(indir, out, Red())
    with pytest.raises(KeyboardInterrupt):
        fill_pairs(indir, out, Red(2), made_by="B")
    assert len(list(out.glob("*.png"))) == 2
    summary = fill_pairs(indir, out, Red(), made_by="B")
    assert (len(summary.written), summary.kept) == (3, 2)


class Refuses:
    """A backend that fills nothing."""

    image_channels = 3

    def __call__(self, batch: Any, *, match_colors: bool = False) -> Any:
        raise InputError("this backend fills nothing")


def test_a_start_that_fills_nothing_removes_nothing(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", *[(16, 16)] * 3), tmp_path / "out"
    fill_pairs(indir, out, Red())
    before = {file.name: file.read_bytes() for file in out.glob("*.png")}
    for settings in ({"made_by": "B"}, {"made_by": "B"}, {"existing": "overwrite"}):
        assert len(fill_pairs(indir, out, Refuses(), **settings).skipped) == 3
        assert {file.name: file.read_bytes() for file in out.glob("*.png")} == before
    summary = fill_pairs(indir, out, Red(), made_by="B")
    assert (len(summary.written), summary.kept) == (3, 0)  # none of them counts as B's


def test_what_cannot_be_overwritten_stays(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", (16, 16), (16, 16)), tmp_path / "out"
    out.mkdir()
    (out / "000_mask000.png").write_bytes(b"somebody's")
    (indir / "000.png").write_bytes((indir / "000.png").read_bytes()[:60])
    summary = fill_pairs(indir, out, Red(), existing="overwrite")
    assert (len(summary.written), len(summary.skipped)) == (1, 1)
    assert (out / "000_mask000.png").read_bytes() == b"somebody's"


def test_a_result_that_its_format_does_not_hold_is_skipped(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", *[(16, 16)] * 32), tmp_path / "out"
    for name in ("001.png", "001_mask000.png"):
        Image.open(indir / name).resize((16400, 4)).save(indir / name)
    for written, kept in ((31, 0), (0, 31)):
        summary = fill_pairs(indir, out, Red(), out_ext=".webp")
        assert (len(summary.written), summary.kept, list(summary.skipped)) == (written, kept, ["001_mask000.png"])
        assert "16400" in summary.skipped["001_mask000.png"]
        assert not (out / "001_mask000.webp").exists()


def test_results_are_of_one_config_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = shutil.copytree(ROOT / "saicinpainting" / "pretrained" / "lama-small", tmp_path / "run")
    model = {"path": str(run), "checkpoint": "best.ckpt"}
    indir, out = write_pairs(tmp_path / "in", (16, 16)), tmp_path / "out"
    dataset = InpaintingDataset(indir, img_suffix=".png")

    def start() -> int:
        return predict_folder(Red(), dataset, indir, out, made_by=origin(model, {})).kept

    config = OmegaConf.load(run / "config.yaml")
    assert [start(), start()] == [0, 1]
    OmegaConf.save(OmegaConf.merge(config, {"generator": {"initial_fill": None}}), run / "config.yaml")
    assert start() == 0
    assert "config_sha256" in caplog.text
    changed = {"title": "moved", "training_model": {"visualize_each_iters": 7, "compile": False}}
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(run / "config.yaml"), changed), run / "config.yaml")
    assert start() == 1
    # What an earlier version has begun does not know of it.
    noted = json.loads((out / ".predicted.json").read_text())
    del noted["config_sha256"]
    (out / ".predicted.json").write_text(json.dumps(noted))
    assert start() == 1


def test_results_that_are_not_asked_for_stay_known(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", (16, 16), (16, 16)), tmp_path / "out"
    fill_pairs(indir, out, Red())
    assert len(fill_pairs(indir, out, Red(), made_by="B", out_ext=".bmp").written) == 2
    assert len(list(out.glob("*.png"))) == 2
    for kept in (0, 2):  # the first ones were of A
        summary = fill_pairs(indir, out, Red(), made_by="B")
        assert (len(summary.written), summary.kept) == (2 - kept, kept)
    assert fill_pairs(indir, out, Red(), made_by="B", out_ext=".bmp").kept == 2


def test_results_are_of_the_images_and_masks_that_are_there(tmp_path: Path, caplog) -> None:
    indir, out = write_pairs(tmp_path / "in", (16, 16), (16, 16)), tmp_path / "out"
    fill_pairs(indir, out, Red())
    Image.fromarray(photo("coffee.png", 64, 9)[:16, :16]).save(indir / "new.png")
    Image.new("L", (16, 16), 255).save(indir / "new_mask000.png")
    copied = Path(shutil.copytree(indir, tmp_path / "copied", copy_function=shutil.copyfile))
    summary = fill_pairs(copied, out, Red())
    assert ([file.name for file in summary.written], summary.kept) == (["new_mask000.png"], 2)
    for name in ("000_mask000.png", "001.png"):
        (copied / name).write_bytes((copied / f"new{name[3:]}").read_bytes())
    summary = fill_pairs(copied, out, Red())
    assert (len(summary.written), summary.kept) == (2, 1)
    assert "2 results of other images or masks than there are now are made anew" in caplog.text
    summary = fill_pairs(indir, out, Red(), existing="overwrite")
    assert (len(summary.written), summary.kept) == (3, 0)


def test_a_killed_start_may_leave_half_a_line(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", (16, 16), (16, 16)), tmp_path / "out"
    fill_pairs(indir, out, Red())
    (out / "001_mask000.png").unlink()
    lines = (out / ".predicted.jsonl").read_text()
    (out / ".predicted.jsonl").write_text(lines[:-20])
    for written in (1, 0):
        summary = fill_pairs(indir, out, Red())
        assert (len(summary.written), summary.kept) == (written, 2 - written)


def test_the_data_sets_own_files_are_never_replaced(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "all" / "in", (16, 16))
    dataset = InpaintingDataset(indir, img_suffix=".png")
    for outdir in (indir, indir / "results"):
        with pytest.raises(InputError, match=r"lies in .*write to a folder outside"):
            predict_folder(Red(), dataset, indir, outdir, existing="overwrite")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "deep").symlink_to(indir)
    linked = InpaintingDataset(tmp_path / "links", img_suffix=".png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to(indir)
    with pytest.raises(InputError, match=r"out/deep/000_mask000.png would replace a file of the data set"):
        predict_folder(Red(), linked, tmp_path / "links", tmp_path / "out", existing="overwrite")
    assert np.asarray(Image.open(indir / "000_mask000.png")).ndim == 2


def test_two_masks_with_one_result_are_named(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "in", (16, 16))
    dataset = InpaintingDataset(indir, img_suffix=".png")
    dataset.img_filenames *= 2
    dataset.mask_filenames.append(str(indir / "000_mask000.jpg"))
    dataset.names *= 2
    with pytest.raises(InputError, match=r"000_mask000.png and .*000_mask000.jpg would both give .*000_mask000.png"):
        predict_folder(Red(), dataset, indir, tmp_path / "out")


@pytest.mark.parametrize(("ending", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".jpg", np.uint8)])
def test_known_pixels_keep_their_16_bits_profile_and_alpha(tmp_path: Path, ending: str, dtype: type) -> None:
    indir = write_pairs(tmp_path / "in", (24, 24), (24, 24))
    pixels = np.random.RandomState(0).randint(0, 65536, (24, 24, 4)).astype(np.uint16)
    extras = ImageExtras(True, pixels[..., 3], b"\0" * 16 + b"RGB " + b"\0" * 120, dpi=(300, 300))
    write_image(indir / "000.png", pixels[..., :3], extras)
    dataset = InpaintingDataset(indir, img_suffix=".png", pad_out_to_modulo=16)
    fill = Red()
    predict_folder(fill, dataset, indir, tmp_path / "out", out_ext=ending, batch_size=2)
    assert len(fill.batches) == 2  # images of 8 and 16 bits are batched apart
    file = tmp_path / "out" / f"000_mask000{ending}"
    with Image.open(file) as result:
        assert result.info["icc_profile"] == extras.profile
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    found = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert found.dtype == dtype
    if dtype is np.uint16:
        hole = np.asarray(Image.open(indir / "000_mask000.png")) > 0
        expected = np.where(hole[..., None], [65535, 0, 0], pixels[..., :3])
        np.testing.assert_array_equal(found[..., [2, 1, 0]], expected)
        np.testing.assert_array_equal(found[..., 3], pixels[..., 3])


def test_one_image_into_one_file(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "in", (16, 16), (16, 16))
    out = tmp_path / "b.png"
    one = InpaintingDataset(indir / "000.png", mask_path=indir / "001_mask000.png")
    for _ in range(2):  # the second time over the first
        assert predict_folder(Red(), one, indir / "000.png", out=out).written == [out]
    assert np.asarray(Image.open(out)).max() == 255
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.png", "in"]
    with pytest.raises(InputError, match=r"out=.*b\.png: expected one image with one mask, found 2"):
        predict_folder(
            Red(), InpaintingDataset(indir, mask_path=indir / "001_mask000.png"), indir, out=tmp_path / "b.png"
        )
    with pytest.raises(InputError, match=r"out=b\.foo: cannot write an image with the ending '\.foo'"):
        predict_folder(Red(), one, indir / "000.png", out="b.foo")
    with pytest.raises(InputError, match=r"000\.png would replace a file of the data set"):
        predict_folder(Red(), one, indir / "000.png", out=indir / "000.png")


def test_endings_of_results(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "in", (16, 16))
    dataset = InpaintingDataset(indir, img_suffix=".png")
    for ending in ("png", ".bmp"):
        (file,) = predict_folder(Red(), dataset, indir, tmp_path / "out", out_ext=ending).written
        assert file.is_file()
        assert file.suffix == f".{ending.removeprefix('.')}"
    for ending in ("", ".", "/x.png"):
        with pytest.raises(InputError, match=r"out_ext: expected an ending such as \.png, got"):
            predict_folder(Red(), dataset, indir, tmp_path / "out", out_ext=ending)
    unasked = Red()
    with pytest.raises(InputError, match=r"out_ext=foo: cannot write an image with the ending '\.foo'; use \.png"):
        predict_folder(unasked, dataset, indir, tmp_path / "out", out_ext="foo")
    assert not unasked.batches


def test_a_number_of_workers_that_cannot_be_is_named(mixed: Path, tmp_path: Path) -> None:
    for workers in (-1, 1.5):
        with pytest.raises(InputError, match=f"num_workers: expected a whole number of at least 0, got {workers}"):
            run(mixed, tmp_path / "out", Red(), num_workers=workers)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def no_space(path: Path, picture: np.ndarray, extras: object) -> None:
        threads.append(threading.current_thread())
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("saicinpainting.inference.folders.write_image", no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*\.png"):
        run(mixed, tmp_path, Red())
    assert threads[0] is not threading.main_thread()

    class Full(Red):
        def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
            (tmp_path / ".predicted.jsonl").unlink()
            (tmp_path / ".predicted.jsonl").mkdir()  # nothing can be written there
            return super().__call__(batch)

    with pytest.raises(IsADirectoryError, match=r"\.predicted\.jsonl"):
        run(mixed, tmp_path, Full())


def test_sizes_of_their_own_do_not_wait_for_the_end(tmp_path: Path) -> None:
    write_pairs(tmp_path / "in", *((16 + i, 16) for i in range(24)), (16, 40), (16, 40))
    read: list[int] = []
    fill = Red()

    class Counted(InpaintingDataset):
        def __getitem__(self, i: int) -> dict[str, Any]:
            read.append(i)
            # Those that were read but not filled: 4 batches of two at most, the one before and the one that comes.
            assert len(read) - sum(shape[0] for shape in fill.batches) <= 4 * 2 + 2
            return super().__getitem__(i)

    dataset = Counted(tmp_path / "in", img_suffix=".png")
    summary = predict_folder(fill, dataset, tmp_path / "in", tmp_path / "out", batch_size=2)
    assert len(summary.written) == 26
    assert (2, 3, 16, 40) in fill.batches


def test_only_what_cannot_be_filled_is_skipped(tmp_path: Path) -> None:
    write_pairs(tmp_path / "in", *[(16, 16)] * 7)
    mask = tmp_path / "in" / "003_mask000.png"
    Image.new("L", (16, 16), 255).save(mask)

    def fill(batch: dict[str, Any]) -> torch.Tensor:
        if batch["mask"].mean(dim=(1, 2, 3)).max() == 1:
            raise InputError("nothing is known")
        return batch["image"]

    dataset = InpaintingDataset(tmp_path / "in", img_suffix=".png")
    summary = predict_folder(fill, dataset, tmp_path / "in", tmp_path / "out", batch_size=4)
    assert len(summary.written) == len(list((tmp_path / "out").glob("*.png"))) == 6
    assert summary.skipped == {"003_mask000.png": f"{mask}: nothing is known"}


class Crowded(Red):
    """Has memory for so many pixels at once; counts its attempts too."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.tried = most, []

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        self.tried.append(tuple(batch["mask"].shape))
        if batch["mask"].numel() > self.most:
            raise RuntimeError("CUDA error: out of memory")
        return super().__call__(batch)


def test_without_memory_batches_are_halved_and_what_cannot_fit_is_named(tmp_path: Path) -> None:
    indir, out = write_pairs(tmp_path / "in", *[(16, 16)] * 7, (32, 32), (16, 16), (16, 16)), tmp_path / "out"
    fill = Crowded(2 * 16 * 16)
    summary = fill_pairs(indir, out, fill, batch_size=4)
    assert len(summary.written) == 9
    assert summary.skipped == {"007_mask000.png": f"{indir}/007_mask000.png: out of memory"}
    assert [shape[0] for shape in fill.tried] == [4, 2, 2, 2, 2, 1, 1]
    plain = tmp_path / "plain"
    fill_pairs(indir, plain, Red())
    for file in out.glob("*.png"):
        assert file.read_bytes() == (plain / file.name).read_bytes()
    # The next start is not held up by it, and fills it where there is memory.
    write_more = Image.open(indir / "000.png")
    write_more.save(indir / "100.png")
    Image.open(indir / "000_mask000.png").save(indir / "100_mask000.png")
    summary = fill_pairs(indir, out, Crowded(2 * 16 * 16), batch_size=4)
    assert ([file.name for file in summary.written], summary.kept) == (["100_mask000.png"], 9)
    assert list(summary.skipped) == ["007_mask000.png"]
    summary = fill_pairs(indir, out, Red(), batch_size=4)
    assert ([file.name for file in summary.written], summary.kept) == (["007_mask000.png"], 10)


def test_an_image_too_large_to_be_read_is_named(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "in", *[(16, 16)] * 3)

    class Large(InpaintingDataset):
        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"image": np.empty((3, 10**7, 10**9)), "mask": None} if i == 1 else super().__getitem__(i)

    summary = predict_folder(Red(), Large(indir, img_suffix=".png"), indir, tmp_path / "out", batch_size=3)
    assert len(summary.written) == 2
    assert summary.skipped == {"001_mask000.png": f"{indir}/001.png: too large for this machine's memory"}


def test_only_what_is_not_finite_is_skipped(tmp_path: Path) -> None:
    indir = write_pairs(tmp_path / "in", *[(16, 16)] * 3)
    Image.new("L", (16, 16), 255).save(indir / "001_mask000.png")

    def fill(batch: dict[str, Any]) -> torch.Tensor:
        nothing_known = batch["mask"].mean(dim=(1, 2, 3), keepdim=True) == 1
        return torch.where(nothing_known, torch.nan, batch["image"])

    dataset = InpaintingDataset(indir, img_suffix=".png")
    summary = predict_folder(fill, dataset, indir, tmp_path / "out", batch_size=3)
    assert [file.name for file in summary.written] == ["000_mask000.png", "002_mask000.png"]
    assert list(summary.skipped) == ["001_mask000.png"]
    assert "not finite: with precision=fp16 set bf16 or fp32" in summary.skipped["001_mask000.png"]


def test_what_waits_to_be_written_is_pixels_of_its_own(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice of a batch would keep all of it."""
    waiting = []
    monkeypatch.setattr("saicinpainting.inference.folders.write_image", lambda _, image, extras: waiting.append(image))
    run(mixed, tmp_path, Red(), batch_size=8)
    assert len(waiting) == 97
    assert all(picture.base is None and picture.dtype == np.uint8 for picture in waiting)


def test_refined_batches_are_of_one_size_before_padding(mixed: Path, tmp_path: Path) -> None:
    """40x56 and 33x50 are one size with padding. Together or alone, the pixels are the same."""
    dataset = InpaintingDataset(mixed, img_suffix=".png", pad_out_to_modulo=8)
    dataset.mask_filenames, dataset.img_filenames = dataset.mask_filenames[:12], dataset.img_filenames[:12]
    dataset.names = dataset.names[:12]
    fill, sizes = refining({"path": write_run(tmp_path), "checkpoint": "best.ckpt"}), []

    def seen(batch: dict[str, Any]) -> torch.Tensor:
        sizes.append((len(batch["image"]), *(set(side.tolist()) for side in batch["unpad_to_size"])))
        return fill(batch)

    for batch_size in (1, 3):
        folder = tmp_path / str(batch_size)
        summary = predict_folder(seen, dataset, mixed, folder, batch_size=batch_size, one_size=True)
        assert len(summary.written) + len(summary.skipped) == 12
    assert max(number for number, _, _ in sizes) == 3
    assert all(len(heights) == len(widths) == 1 for _, heights, widths in sizes)
    for file in (tmp_path / "1").rglob("*.png"):
        one, other = (
            np.asarray(Image.open(tmp_path / folder / file.relative_to(tmp_path / "1"))) for folder in ("1", "3")
        )
        assert one.shape == other.shape
        # Adam's first steps make much of float32's rounding; float64 in tests/evaluation/test_refinement.py.
        assert np.abs(one.astype(int) - other).max() <= 3
        assert np.abs(one.astype(int) - other).mean() < 0.05
