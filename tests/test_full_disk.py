"""What is written in many files, on a disk that takes a part of it: one line, and the same result the next time."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saicinpainting.cli import one_line_errors
from saicinpainting.data.mask_statistics import measure, plot, write_samples
from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.data.preparation.celeba import CelebaHQ
from saicinpainting.data.preparation.command import location_config
from saicinpainting.data.shard_writing import write_shards
from saicinpainting.data.sources import FolderSource
from saicinpainting.io.files import write_whole
from saicinpainting.masks.mask_sets import make_mask_set, read_recipe
from saicinpainting.metrics.evaluator import write_results_csv
from saicinpainting.training.log_reports import write_table
from tests.disks import largest_file, needs_full_device, no_room_for

IMAGES = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "in").mkdir()
    for number in range(IMAGES):
        pixels = np.random.RandomState(number).randint(0, 256, (70, 70, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "in" / f"{number}.png")
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(root / "in", "in")
    return root


def masks(photos: Path, out: Path) -> None:
    recipe = {**read_recipe(Path("configs/data_gen/random_thick_256.yaml")), "cropping": {"out_min_size": 64}}
    make_mask_set(recipe, photos / "in", out, ext="png")


def shards(photos: Path, out: Path) -> None:
    write_shards(FolderSource(photos / "in"), out, root=photos, shard_images=2)


def celeba(photos: Path, out: Path) -> None:
    CelebaHQ(root=out, source=str(photos / "photos.tar"), val_images=1, eval_sets=()).make()
    write_whole(out / "location.yaml", location_config(out / "location.yaml", data=photos, results=photos))


def statistics(photos: Path, out: Path) -> None:
    dataset = InpaintingDataset(photos / "set", ".png")
    holes = measure(dataset)
    plot(holes, out / "holes.png", title="a set")
    write_samples(dataset, holes, out / "samples", per_bin=1, seed=0)


def tables(photos: Path, out: Path) -> None:
    write_results_csv({("ssim", "total"): {"mean": 0.5}}, out / "results.csv")
    write_table(pd.DataFrame({"run": ["a run"] * 100, "best step": range(100)}), out / "report.tsv")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def error_of(work: Callable[[Path, Path], None], photos: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        one_line_errors(work)(photos, out)
    assert stopped.value.code == 1
    return capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]


@pytest.mark.parametrize(
    ("work", "limits"),
    [
        (masks, (10, 500, 3000)),
        (shards, (10, 3000, 15_000, 30_000)),
        (celeba, (10, 100, 5000, 16_000)),
        (statistics, (5000,)),
        (tables, (10, 500)),
    ],
)
def test_a_disk_that_takes_no_more_is_told_and_no_matter_afterwards(
    work: Callable[[Path, Path], None],
    limits: tuple[int, ...],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if work is statistics and not (photos / "set").exists():
        masks(photos, photos / "set")
    work(photos, tmp_path / "whole")
    for limit in limits:
        out = tmp_path / str(limit)
        with largest_file(limit):
            line = error_of(work, photos, out, capsys)
        assert line.startswith(f"error: {out}")
        assert "file too large; the file system or `ulimit -f` forbids a file of that size" in line
        assert not list(out.rglob("*.part"))
        work(photos, out)
        assert files_in(out) == files_in(tmp_path / "whole")


@needs_full_device
@pytest.mark.parametrize(
    ("work", "name"),
    [
        (masks, ".mask_set.json"),
        (masks, ".mask_set.jsonl"),
        (masks, "3_crop000.png"),
        (masks, "3_crop000_mask000.png"),
        (shards, ".shards.json"),
        (shards, ".shards.jsonl"),
        (shards, "shard-000001.tar"),
        (shards, "index.json"),
        (shards, "SHA256SUMS"),
        (celeba, "original/2.png"),
        (celeba, "original_val_256/2.png"),
        (celeba, ".prepared.json"),
        (celeba, "location.yaml"),
        (tables, "results.csv"),
        (tables, "report.tsv"),
    ],
)
def test_a_full_disk_wants_room(
    work: Callable[[Path, Path], None], name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work(photos, tmp_path / "whole")
    out = tmp_path / "out"
    if work in (masks, shards) and not name.startswith("."):  # a folder that is not empty has to be one of these
        out.mkdir()
        shutil.copy(tmp_path / "whole" / f".{'mask_set' if work is masks else 'shards'}.json", out)
    names = [name] if (tmp_path / "whole" / name).is_file() else []
    for file in names or [f"original_val_256/{one}.png" for one in range(IMAGES)]:  # one of them is drawn
        no_room_for(out / file)
    line = error_of(work, photos, out, capsys)
    assert line.startswith(f"error: {out}/{name.rpartition('/')[0]}")
    assert line.endswith(": no space left on device; make room, then start again")
    work(photos, out)
    for part in out.rglob("*.part"):
        part.unlink()  # of those not drawn
    assert files_in(out) == files_in(tmp_path / "whole")


@needs_full_device
def test_what_was_there_stays(photos: Path, tmp_path: Path) -> None:
    tables(photos, tmp_path)
    before = files_in(tmp_path)
    no_room_for(tmp_path / "results.csv")
    with pytest.raises(OSError, match="No space left"):
        write_results_csv({("lpips", "total"): {"mean": 1.0}}, tmp_path / "results.csv")
    assert files_in(tmp_path) == before
