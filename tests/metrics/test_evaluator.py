"""The evaluator: bins of hole share, integrals, tables, padding, several ranks."""

from __future__ import annotations

import math
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist

from saicinpainting.metrics import SSIMScore
from saicinpainting.metrics.base import ImageMetric, Row, mean_and_std
from saicinpainting.metrics.evaluator import (
    INTEGRALS,
    InpaintingEvaluator,
    bin_label,
    hole_share_bins,
    make_evaluator,
    results_table,
    write_results_csv,
)
from saicinpainting.metrics.ssim import ssim
from saicinpainting.utils import InputError, flatten_dict
from tests.helpers import rand
from tests.runs import TinyFID


class MeanDifference(ImageMetric):
    """Stands in for LPIPS: mean of pred - target of each image."""

    def __init__(self) -> None:
        super().__init__(rows={"values": Row()})

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        pred, target = inputs
        return (pred - target).mean(dim=(1, 2, 3))

    def summarize(self, rows: Any) -> dict[str, float]:
        return mean_and_std(rows["values"])


def masks(*hole_rows: int, size: int = 20) -> torch.Tensor:
    """(B, 1, size, size) with so many hole rows each."""
    mask = torch.zeros(len(hole_rows), 1, size, size)
    for one, rows in zip(mask, hole_rows, strict=True):
        one[:, :rows] = 1
    return mask


def batch(seed: int, *hole_rows: int) -> dict[str, Any]:
    count = len(hole_rows)
    return {
        "image": rand(seed, count, 3, 20, 20),
        "inpainted": rand(seed + 50, count, 3, 20, 20),
        "mask": masks(*hole_rows),
    }


def small_evaluator(**settings: Any) -> InpaintingEvaluator:
    return InpaintingEvaluator(metrics={"ssim": SSIMScore(), "fid": TinyFID()}, **settings)


def test_bins_by_hand() -> None:
    # 20 rows: 5% each. 0, 5, 10, 65, 70, 95, 100 percent.
    assert hole_share_bins(masks(0, 1, 2, 13, 14, 19, 20), 10).tolist() == [0, 0, 1, 6, 7, 9, 9]
    assert hole_share_bins(masks(0, 5, 10, 19, 20), 4).tolist() == [0, 1, 2, 3, 3]


def test_bin_labels() -> None:
    assert [bin_label(i, 10) for i in (0, 1, 9)] == ["0-10%", "10-20%", "90-100%"]
    assert bin_label(0, 8) == "0-12.5%"
    for bins in (999, 1001, 20_000):
        assert len({bin_label(i, bins) for i in range(bins)}) == bins


def test_groups_of_results() -> None:
    evaluator = small_evaluator()
    data = batch(1, 1, 5, 5, 1, 19)
    evaluator.update({key: value[:2] for key, value in data.items()})
    evaluator.update({key: value[2:] for key, value in data.items()})
    results = evaluator.compute()
    values = ssim(data["inpainted"], data["image"])
    for group, chosen in {"total": [0, 1, 2, 3, 4], "0-10%": [0, 3], "20-30%": [1, 2], "90-100%": [4]}.items():
        assert results["ssim", group]["mean"] == pytest.approx(values[chosen].mean().item(), abs=1e-6)
        assert results["ssim", group]["std"] == pytest.approx(values[chosen].std(unbiased=False).item(), abs=1e-6)
    assert {key for key in results if key[0] == "ssim"} == {
        ("ssim", group) for group in ("total", "0-10%", "20-30%", "90-100%")
    }
    # FID needs two images and has no standard deviation.
    assert {key[1] for key in results if key[0] == "fid"} == {"total", "0-10%", "20-30%"}
    assert set(results["fid", "total"]) == {"mean"}


class Crowded(MeanDifference):
    """Has memory for so many images at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.tried = most, []

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(inputs[0]))
        if len(inputs[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().measure(row, *inputs)


def test_images_are_measured_by_halves_where_memory_runs_out() -> None:
    data = batch(1, 1, 5, 5, 1, 19)
    padded = {**data, "unpad_to_size": [torch.tensor([20, 20, 16, 20, 16]), torch.full((5,), 20)]}
    evaluators = [InpaintingEvaluator(metrics={"crowded": Crowded(most), "ssim": SSIMScore()}) for most in (9, 1)]
    for evaluator in evaluators:
        evaluator.update(padded)
    whole, halved = (evaluator.metrics["crowded"] for evaluator in evaluators)
    assert isinstance(whole, Crowded)
    assert isinstance(halved, Crowded)
    assert (whole.tried, halved.tried) == ([3, 2], [3, 1, 2, 1, 1, 2, 1, 1])
    for name, metric in evaluators[0].metrics.items():
        rows = evaluators[1].metrics[name].gathered_rows()
        for key, values in metric.gathered_rows().items():
            torch.testing.assert_close(rows[key], values, atol=1e-6, rtol=0)
    halved.most = 0
    with pytest.raises(InputError, match=r"out of memory: Crowded cannot measure an image of 20 x 16 pixels on cpu"):
        evaluators[1].update({**padded, "unpad_to_size": [torch.full((5,), 16), torch.full((5,), 20)]})


@pytest.mark.parametrize("kind", ["ssim_fid100_f1", "lpips_fid100_f1"])
def test_every_integral_is_reported_and_is_the_closed_form(kind: str) -> None:
    metrics = {"ssim": SSIMScore(), "lpips": MeanDifference(), "fid": TinyFID()}
    evaluator = InpaintingEvaluator(metrics=metrics, integral_kind=kind)
    evaluator.update(batch(1, 1, 5, 9))
    results = evaluator.compute()
    f = (100 - results["fid", "total"]["mean"]) / 100
    assert 0 < f < 1
    for name, s in {
        "ssim_fid100_f1": results["ssim", "total"]["mean"],
        "lpips_fid100_f1": 1 - results["lpips", "total"]["mean"],
    }.items():
        assert results[name, "total"] == {"mean": pytest.approx(2 * s * f / (s + f + 1e-3))}
    assert {key for key in results if "_f1" in key[0]} == {(name, "total") for name in INTEGRALS}


def test_fid_above_100_gives_the_integral_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saicinpainting.metrics.fid.Gaussian.distance", lambda *_: 250.0)
    evaluator = small_evaluator()
    evaluator.update(batch(1, 1, 5))
    assert evaluator.compute()["ssim_fid100_f1", "total"]["mean"] == 0


@pytest.mark.parametrize(
    ("names", "kind", "integrals"),
    [
        ("ssim", "ssim_fid100_f1", set()),
        ("ssim lpips", "ssim_fid100_f1", set()),
        ("lpips fid", "ssim_fid100_f1", {"lpips_fid100_f1"}),
        ("ssim fid", "lpips_fid100_f1", {"ssim_fid100_f1"}),
        ("ssim lpips fid", None, set()),
    ],
)
def test_integrals_without_their_parts_or_a_kind_are_absent(names: str, kind: str | None, integrals: set[str]) -> None:
    makers = {"ssim": SSIMScore, "lpips": MeanDifference, "fid": TinyFID}
    evaluator = InpaintingEvaluator(metrics={name: makers[name]() for name in names.split()}, integral_kind=kind)
    evaluator.update(batch(1, 1, 5))
    assert {metric for metric, _ in evaluator.compute()} == set(names.split()) | integrals


def test_unknown_integral_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"integral_kind: unknown kind 'ssim_f1'; known: lpips_fid100_f1"):
        make_evaluator(lpips=False, fid=False, integral_kind="ssim_f1")


def test_images_that_the_batch_lacks_are_named() -> None:
    with pytest.raises(InputError, match=r"evaluator\.inpainted_key=inpaintd: .*did you mean 'inpainted'"):
        small_evaluator(inpainted_key="inpaintd").update(batch(1))


def test_inpainted_key_chooses_what_is_measured() -> None:
    data = batch(1, 1, 5)
    evaluator = make_evaluator(lpips=False, fid=False, inpainted_key="predicted_image")
    evaluator.update({**data, "predicted_image": data["image"]})
    assert evaluator.compute()["ssim", "total"]["mean"] == pytest.approx(1)


def test_nothing_measured_gives_nothing_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small_evaluator().compute() == {}


def test_reset_forgets() -> None:
    evaluator, fresh = small_evaluator(), small_evaluator()
    evaluator.update(batch(1, 1, 5))
    evaluator.compute()
    evaluator.reset()
    assert evaluator.compute() == {}
    for one in (evaluator, fresh):
        one.update(batch(2, 7, 9))
    assert evaluator.compute() == fresh.compute()


def test_costly_metrics_in_every_third_round() -> None:
    evaluator, measured = small_evaluator(costly_every=3), []
    for evaluator.round in range(4):
        evaluator.update(batch(1, 1, 5))
        measured.append({name for name, _ in evaluator.compute()})
        evaluator.reset()
    everything = {"ssim", "fid", "ssim_fid100_f1"}
    assert measured == [everything, {"ssim"}, {"ssim"}, everything]
    with pytest.raises(InputError, match=r"costly_every: expected 1 or more, got 0"):
        small_evaluator(costly_every=0)


def test_switches_of_the_config() -> None:
    evaluator = make_evaluator(lpips=False, fid=False, psnr=True, l1=True)
    evaluator.update(batch(1, 1, 5))
    assert {name for name, _ in evaluator.compute()} == {"ssim", "psnr", "psnr_hole", "l1", "l1_hole"}
    with pytest.raises(InputError, match=r"evaluator\.ids.*set evaluator\.fid=true"):
        make_evaluator(lpips=False, fid=False, ids=True)
    with pytest.raises(InputError, match=r"evaluator\.psnr: expected true or false, got 'false'"):
        make_evaluator(lpips=False, fid=False, psnr="false")


def test_padding_is_not_measured() -> None:
    data = batch(1, 4, 4, 4)
    padded = {key: torch.nn.functional.pad(value, (0, 12, 0, 12), value=1) for key, value in data.items()}
    # As the loader collates (H, W) of three images; the second is smaller.
    padded["unpad_to_size"] = [torch.tensor([20, 10, 20]), torch.tensor([20, 15, 20])]
    evaluator, plain = small_evaluator(), small_evaluator()
    evaluator.update(padded)
    plain.update({key: value[[0, 2]] for key, value in data.items()})
    plain.update({key: value[[1], :, :10, :15] for key, value in data.items()})
    # In another order, so the sums differ in their last digits.
    assert flatten_dict(evaluator.compute()) == pytest.approx(flatten_dict(plain.compute()), rel=1e-9)
    assert ("ssim", "40-50%") in evaluator.compute()  # 4 of 10 rows; 4 of 20 for the others


def test_unpadded_size_of_a_single_sample() -> None:
    data = batch(1, 4)
    evaluator, plain = small_evaluator(), small_evaluator()
    evaluator.update({**data, "unpad_to_size": (10, 15)})
    plain.update({key: value[:, :, :10, :15] for key, value in data.items()})
    assert evaluator.compute() == plain.compute() != {}


def test_evaluator_adds_nothing_to_checkpoints() -> None:
    evaluator = small_evaluator()
    evaluator.update(batch(1, 1, 5))
    assert not evaluator.state_dict()
    assert not list(evaluator.parameters())


def test_missing_weights_say_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for settings in ({"fid": False}, {"lpips": False}):
        with pytest.raises(InputError, match=r"switch it off with evaluator\.lpips=false evaluator\.fid=false$"):
            make_evaluator(**settings)


def test_unknown_setting_is_named() -> None:
    with pytest.raises(InputError, match=r"evaluator\.lpip: unknown config key.*did you mean 'lpips'"):
        make_evaluator(lpip=False)


def test_flattened_names() -> None:
    evaluator = small_evaluator()
    evaluator.update(batch(1, 1, 1))
    assert set(flatten_dict(evaluator.compute())) == {
        "ssim_total_mean",
        "ssim_total_std",
        "ssim_0-10%_mean",
        "ssim_0-10%_std",
        "fid_total_mean",
        "fid_0-10%_mean",
        "ssim_fid100_f1_total_mean",
    }


def test_table_and_file(tmp_path: Path) -> None:
    results = {("ssim", "total"): {"mean": 0.123456, "std": 0.5}, ("fid", "total"): {"mean": 12.0}}
    table = results_table(results)
    assert table.loc[("ssim", "total"), "std"] == 0.5
    assert math.isnan(table.loc[("fid", "total"), "std"])
    path = tmp_path / "new" / "folder" / "out.csv"
    write_results_csv(results, path)
    assert path.read_text().splitlines() == [
        "metric\tgroup\tmean\tstd",
        "ssim\ttotal\t0.1235\t0.5000",
        "fid\ttotal\t12.0000\t",
    ]
    assert pd.read_csv(path, sep="\t", index_col=[0, 1]).shape == (2, 2)
    write_results_csv({}, path)
    assert path.read_text() == "metric\tgroup\tmean\tstd\n"


# Two ranks. What each of them sees, by scenario; the last rank may have nothing.
SCENARIOS: dict[str, list[list[dict[str, Any]]]] = {
    "uneven": [[batch(1, 1, 5, 19), batch(2, 5, 5)], [batch(3, 9, 1, 1, 5)]],
    "empty rank": [[batch(1, 1, 5, 19), batch(2, 5, 5)], []],
}


def measure_rank(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    # If the other rank dies, waiting for it ends.
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        results = {}
        for name, ranks in SCENARIOS.items():
            evaluator = small_evaluator()
            for one in ranks[rank]:
                evaluator.update(one)
            first = evaluator.compute()
            # Synchronising must leave the rank's own states as they were.
            evaluator.update(batch(4, 3, 3 + rank))
            results[name] = (first, evaluator.compute(), evaluator.metrics["fid"].distances)
        torch.save(results, f"{folder}/results{rank}.pt")
    finally:
        dist.destroy_process_group()


def measure_other_rank(_: int, folder: str) -> None:
    measure_rank(1, folder)


@pytest.mark.slow
def test_two_ranks_give_the_results_of_one_process(tmp_path: Path) -> None:
    other = torch.multiprocessing.spawn(measure_other_rank, args=(str(tmp_path),), nprocs=1, join=False)
    measure_rank(0, str(tmp_path))
    other.join()
    by_rank = [torch.load(tmp_path / f"results{rank}.pt") for rank in (0, 1)]
    for name, ranks in SCENARIOS.items():
        assert by_rank[0][name][:2] == by_rank[1][name][:2]
        evaluator = small_evaluator()
        for one in [one for batches in ranks for one in batches]:
            evaluator.update(one)
        expected = [evaluator.compute()]
        for rank in (0, 1):
            evaluator.update(batch(4, 3, 3 + rank))
        expected.append(evaluator.compute())
        # Each distance is computed by one rank alone, and both have about as many.
        distances = [result[name][2] for result in by_rank]
        assert sum(distances) == evaluator.metrics["fid"].distances
        assert min(distances) >= sum(distances) // 2 - 1
        for got, want in zip(by_rank[0][name][:2], expected, strict=True):
            assert got.keys() == want.keys()
            assert flatten_dict(got) == pytest.approx(flatten_dict(want), abs=1e-6, rel=1e-6)
