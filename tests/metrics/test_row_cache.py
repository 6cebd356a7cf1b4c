"""The cache of metrics' values: what is known is not computed again, whatever happened in between."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset
from saicinpainting.evaluation import predictions as module
from saicinpainting.evaluation.predictions import Measurement, measure_images
from saicinpainting.metrics import FIDScore, L1Score, SSIMScore
from saicinpainting.metrics.base import NetworkMetric, Row
from saicinpainting.metrics.row_cache import RowCache
from saicinpainting.utils import InputError
from tests.helpers import photo

COUNT = 6
TARGETS, PREDICTIONS = "CountingFID/features/target", "CountingFID/features/pred"


class CountingFID(FIDScore):
    """FID of the mean colours of quarters; counts the images that it looked at."""

    def __init__(self) -> None:
        super().__init__(network=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()), features=12)
        self.seen = 0

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        self.seen += len(inputs[0])
        return super().measure(row, *inputs)


@pytest.fixture
def fid(monkeypatch: pytest.MonkeyPatch) -> list[CountingFID]:
    """The metrics that evaluations make from now on."""
    made: list[CountingFID] = []

    def make_metrics(**_: Any) -> dict[str, Any]:
        made.append(CountingFID())
        return {"ssim": SSIMScore(), "l1_hole": L1Score(hole=True), "fid": made[-1]}

    monkeypatch.setattr(module, "make_metrics", make_metrics)
    return made


def write_set(root: Path, *predictions: str) -> None:
    """Photographs of two sizes with masks, and a folder of predictions for each name."""
    for i in range(COUNT):
        size = 32 if i % 3 else 40
        pixels, mask = photo("astronaut.png", size, 30 * i), np.zeros((size, size), np.uint8)
        mask[4 : 8 + 3 * i, 4:20] = 255
        for name, content in {f"data/{i}.png": pixels, f"data/{i}_mask000.png": mask}.items():
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(content).save(root / name)
        for number, name in enumerate(predictions):
            filled = np.where(mask[..., None] > 0, (pixels // 2 + 40 * number).astype(np.uint8), pixels)
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(filled).save(root / name / f"{i}_mask000.png")


def measure(root: Path, name: str, *, pad_out_to_modulo: int | None = None, **settings: Any) -> Measurement:
    dataset = PrecomputedInpaintingResultsDataset(
        root / "data", root / name, img_suffix=".png", inpainted_suffix=".png", pad_out_to_modulo=pad_out_to_modulo
    )
    return measure_images(dataset, **{"batch_size": 2, "device": "cpu", **settings})


def same(one: Measurement, other: Measurement) -> bool:
    pd.testing.assert_frame_equal(one.images, other.images)
    return one.results == other.results


def test_the_second_model_finds_the_originals_measured(tmp_path: Path, fid: list[CountingFID]) -> None:
    write_set(tmp_path, "first", "second")
    plain = [measure(tmp_path, name) for name in ("first", "second")]
    assert not same_results(*plain)
    cached = [measure(tmp_path, name, cache_dir=tmp_path / "cache") for name in ("first", "second", "second")]
    assert same(cached[0], plain[0])
    assert same(cached[1], plain[1])
    assert same(cached[2], plain[1])
    assert [m.computed.get(TARGETS, 0) for m in cached] == [COUNT, 0, 0]
    assert [m.computed.get(PREDICTIONS, 0) for m in cached] == [COUNT, COUNT, 0]
    assert [one.seen for one in fid] == [2 * COUNT, 2 * COUNT, 2 * COUNT, COUNT, 0]
    assert cached[2].computed == {}


def same_results(one: Measurement, other: Measurement) -> bool:
    return one.results == other.results


def test_a_changed_prediction_is_measured_again(tmp_path: Path, fid: list[CountingFID]) -> None:
    write_set(tmp_path, "first")
    measure(tmp_path, "first", cache_dir=tmp_path / "cache")
    file = tmp_path / "first" / "4_mask000.png"
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    again = measure(tmp_path, "first", cache_dir=tmp_path / "cache")
    assert again.computed[PREDICTIONS] == 1
    assert same(again, measure(tmp_path, "first"))


@pytest.mark.parametrize("cached", [False, True])
def test_values_stand_beside_their_images_where_padding_makes_sizes_equal(
    tmp_path: Path, fid: list[CountingFID], cached: bool
) -> None:
    write_set(tmp_path, "first")
    plain = measure(tmp_path, "first").images
    settings = {"cache_dir": tmp_path / "cache"} if cached else {}
    padded = measure(tmp_path, "first", pad_out_to_modulo=64, **settings, batch_size=COUNT).images
    assert list(padded["image"]) == list(plain["image"])
    pd.testing.assert_frame_equal(padded, plain)


def test_an_interruption_loses_what_was_not_computed_yet(
    tmp_path: Path, fid: list[CountingFID], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, "first")
    expected = measure(tmp_path, "first")
    measured, batches = CountingFID.measure, []

    def interrupted(self: CountingFID, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        batches.append(row)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return measured(self, row, *inputs)

    monkeypatch.setattr(CountingFID, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, "first", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(CountingFID, "measure", measured)
    again = measure(tmp_path, "first", cache_dir=tmp_path / "cache")
    assert same(again, expected)
    assert 0 < again.computed[TARGETS] < COUNT
    assert 0 < again.computed["SSIMScore/values/pred+target"] < COUNT


class Weighted(NetworkMetric):
    """The mean of the prediction times a number, which is all that the file of weights holds."""

    def __init__(self, file: Path) -> None:
        super().__init__(torch.nn.Flatten(), rows={"values": Row(("pred",))}, weights=[file])
        self.factor = float(file.read_text())

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        return self.factor * self.network(*inputs).mean(dim=1)

    def summarize(self, rows: Any) -> dict[str, float]:
        return {}


def test_rows_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    for name, factor in {"one": "2.0", "two": "3.0", "copy": "2.0"}.items():
        (tmp_path / name).write_text(factor)
    images, digests = {"pred": torch.ones(1, 3, 8, 8)}, {"pred": ["same"]}
    with RowCache(tmp_path / "originals", tmp_path / "predictions") as cache:
        found = [
            (cache.measured(Weighted(tmp_path / name), "values", images, digests).item(), sum(cache.computed.values()))
            for name in ("one", "two", "copy")
        ]
    assert found == [(2, 1), (3, 2), (2, 2)]


@pytest.mark.parametrize("change", ["version", "packages", "package", "device"])
def test_rows_that_were_computed_otherwise_are_not_taken(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Of another version of the metric or of the package that it uses, or on another kind of device."""
    before, metric = CountingFID().signature, CountingFID()
    assert metric.signature == before
    if change == "device":
        assert metric.to("meta").signature != before
        return
    if change == "package":
        monkeypatch.setattr("importlib.metadata.version", lambda package: "0")
    else:
        monkeypatch.setattr(CountingFID, change, {"version": 2, "packages": ("numpy",)}[change])
    assert CountingFID().signature != before


def test_rows_of_other_metrics_are_not_taken(tmp_path: Path) -> None:
    class Doubled(L1Score):
        pass

    image, mask = torch.rand(2, 1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    images = {"pred": image[0], "target": image[1], "mask": mask}
    digests = {name: ["same"] for name in images}
    with RowCache(tmp_path / "originals", tmp_path / "predictions") as cache:
        for metric in (L1Score(), L1Score(hole=True), Doubled(), L1Score()):
            cache.measured(metric, "values", images, digests)
    assert cache.computed == {
        "L1Score/image/pred+target": 1,
        "L1Score/hole/pred+target+mask": 1,
        "Doubled/image/pred+target": 1,
    }


def put_rows(folder: Path, first: int) -> None:
    metric, mask = L1Score(), torch.ones(1, 1, 8, 8)
    for number in range(first, first + 30):
        with RowCache(folder / "originals", folder / "predictions") as cache:
            images = {"pred": torch.full((1, 3, 8, 8), number / 100), "target": torch.zeros(1, 3, 8, 8), "mask": mask}
            cache.measured(metric, "values", images, {name: [str(number)] for name in images})


def test_two_processes_write_one_cache(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=put_rows, args=(tmp_path, 0))
    other.start()
    put_rows(tmp_path, 20)
    other.join()
    assert other.exitcode == 0
    with RowCache(tmp_path / "originals", tmp_path / "predictions") as cache:
        images = {"pred": torch.ones(50, 3, 8, 8)}
        digests = {name: [str(n) for n in range(50)] for name in ("pred", "target")}
        rows = cache.measured(L1Score(), "values", images, digests)
    assert cache.computed == {}
    torch.testing.assert_close(rows, torch.arange(50) / 100)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "originals").write_text("no database" * 100)
    with pytest.raises(InputError, match=r"originals: the rows of metrics cannot be read.*delete the file"):
        RowCache(tmp_path / "originals", tmp_path / "predictions")
