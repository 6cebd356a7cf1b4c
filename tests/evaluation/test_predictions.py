"""Measuring a folder of predictions: values beside their images, what is kept of them, equal sizes in batches."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saicinpainting.data.pairs import PrecomputedInpaintingResultsDataset, batches_of_equal_size
from saicinpainting.evaluation import predictions as module
from saicinpainting.evaluation.checkpoint import write_tables
from saicinpainting.evaluation.predictions import (
    Measurement,
    evaluate_predictions,
    make_measuring_evaluator,
    measure_predictions,
)
from saicinpainting.evaluation.report import EvaluationSet, SetResult, summary_table
from saicinpainting.io.ranks import Ranks
from saicinpainting.metrics import FIDScore, L1Score, SSIMScore
from saicinpainting.metrics.base import NetworkMetric, Row
from tests.helpers import photo
from tests.ranks import in_threads

COUNT = 6


class ColourFID(FIDScore):
    """FID of the mean colours of quarters."""

    def __init__(self) -> None:
        super().__init__(network=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()), features=12)


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics that evaluations make from now on."""
    monkeypatch.setattr(
        module, "make_metrics", lambda **_: {"ssim": SSIMScore(), "l1_hole": L1Score(hole=True), "fid": ColourFID()}
    )


def write_set(root: Path) -> None:
    """Photographs of two sizes with masks and predictions."""
    for i in range(COUNT):
        size = 32 if i % 3 else 40
        pixels, mask = photo("astronaut.png", size, 30 * i), np.zeros((size, size), np.uint8)
        mask[4 : 8 + 3 * i, 4:20] = 255
        filled = np.where(mask[..., None] > 0, pixels // 2, pixels)
        images = {f"data/{i}.png": pixels, f"data/{i}_mask000.png": mask, f"predicted/{i}_mask000.png": filled}
        for name, content in images.items():
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(content).save(root / name)


def measure(
    root: Path, *, pad_out_to_modulo: int | None = None, batch_size: int = 2, ranks: Ranks | None = None
) -> Measurement:
    dataset = PrecomputedInpaintingResultsDataset(
        root / "data", root / "predicted", img_suffix=".png", inpainted_suffix=".png",
        pad_out_to_modulo=pad_out_to_modulo,
    )  # fmt: skip
    measured = measure_predictions(make_measuring_evaluator(device="cpu"), dataset, batch_size=batch_size, ranks=ranks)
    return cast(Measurement, measured)


def test_values_stand_beside_their_images_where_padding_makes_sizes_equal(tmp_path: Path) -> None:
    write_set(tmp_path)
    plain = measure(tmp_path).images
    padded = measure(tmp_path, pad_out_to_modulo=64, batch_size=COUNT).images
    assert list(padded["image"]) == [f"{i}_mask000.png" for i in range(COUNT)]
    pd.testing.assert_frame_equal(padded, plain)


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_measure_what_one_process_does(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FID too, in which the order of the images shows; with five ranks for four batches."""
    write_set(tmp_path)
    monkeypatch.setattr(ColourFID, "least_side", 33)
    alone = measure(tmp_path)
    told = caplog.text
    caplog.clear()
    first, *others = in_threads(count, lambda ranks: measure(tmp_path, ranks=ranks))
    assert first.results == alone.results
    assert {metric for metric, _ in first.results} >= {"ssim", "l1_hole", "fid"}
    pd.testing.assert_frame_equal(first.images, alone.images, check_exact=True)
    assert caplog.text == told
    assert others == [None] * (count - 1)


def test_a_measurement_comes_back_from_a_file_the_same(tmp_path: Path) -> None:
    write_set(tmp_path)
    measured = measure(tmp_path)
    measured.images.loc[2, "ssim"] = np.nan
    again = Measurement.from_json(json.loads(json.dumps(measured.as_json())))
    assert again.results == measured.results
    pd.testing.assert_frame_equal(again.images, measured.images)


def test_the_table_says_why_there_is_no_fid_of_one_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path)
    for file in [file for i in range(1, COUNT) for file in (tmp_path / "data").glob(f"{i}*")]:
        file.unlink()
    config = {
        "dataset_kwargs": {"img_suffix": ".png", "inpainted_suffix": ".png"},
        "evaluator_kwargs": {"device": "cpu"},
    }
    results = evaluate_predictions(config, tmp_path / "data", tmp_path / "predicted")
    assert results["fid", "none: it needs 2 images"] == {}
    assert results["ssim", "total"]["mean"] < 1
    assert "fid: none, it needs 2 images" in caplog.text
    measured = measure(tmp_path)
    assert Measurement.from_json(json.loads(json.dumps(measured.as_json()))).results == measured.results
    dataset = PrecomputedInpaintingResultsDataset(tmp_path / "data", tmp_path / "predicted", ".png", img_suffix=".png")
    one = SetResult(EvaluationSet("mine", tmp_path / "data"), measured.results, measured.images, dataset, "")
    write_tables([one], tmp_path / "tables", {})
    assert "mine\tfid\tnone: it needs 2 images\t\t\n" in (tmp_path / "tables" / "results.csv").read_text()
    assert "fid" not in summary_table(tmp_path / "tables" / "results.json")


def test_images_that_a_metric_has_to_continue_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path)
    monkeypatch.setattr(ColourFID, "least_side", 33)
    measure(tmp_path, pad_out_to_modulo=64)
    assert "fid: 4 images are too small for it, under 33 pixels" in caplog.text
    assert "1.png" in caplog.text


class Weighted(NetworkMetric):
    """A metric whose weights are in `file`."""

    def __init__(self, file: Path) -> None:
        super().__init__(torch.nn.Flatten(), rows={"values": Row(("pred",))}, weights=[file])

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        return self.network(*inputs).mean(dim=1)

    def summarize(self, rows: Any) -> dict[str, float]:
        return {}


def test_metrics_of_other_weights_have_another_signature(tmp_path: Path) -> None:
    for name, content in {"one": "2.0", "two": "3.0", "copy": "2.0"}.items():
        (tmp_path / name).write_text(content)
    one, two, copy = (Weighted(tmp_path / name).signature for name in ("one", "two", "copy"))
    assert one == copy != two


@pytest.mark.parametrize("change", ["version", "packages", "package", "device"])
def test_metrics_that_compute_otherwise_have_another_signature(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Of another version of the metric or of the package that it uses, or on another kind of device."""
    before, metric = ColourFID().signature, ColourFID()
    assert metric.signature == before
    if change == "device":
        assert metric.to("meta").signature != before
        return
    if change == "package":
        monkeypatch.setattr("importlib.metadata.version", lambda package: "0")
    else:
        monkeypatch.setattr(ColourFID, change, {"version": 2, "packages": ("numpy",)}[change])
    assert ColourFID().signature != before


@pytest.mark.parametrize("waiting", [0, 5, 100])
def test_batches_have_one_size_and_few_images_wait(waiting: int) -> None:
    sizes = random.Random(0).choices("aaabcd", k=200)
    read: list[int] = []

    def samples() -> Any:
        for i in range(len(sizes)):
            read.append(i)
            yield i

    given: list[int] = []
    for batch in batches_of_equal_size(samples(), 4, lambda i: sizes[i], waiting=waiting):
        assert len({sizes[i] for i in batch}) == 1
        assert len(batch) <= 4
        assert len(read) - len(given) <= waiting + 4 + 1
        given += batch
    assert sorted(given) == list(range(200))
    if waiting == 0:
        assert given == sorted(given)
