"""Processes that share one command: what they exchange, how they end, which devices they get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.io.ranks import Ranks, run_ranks
from saicinpainting.utils import InputError
from tests import ranks as work
from tests.ranks import in_threads


@pytest.mark.slow
def test_values_go_from_rank_0_to_all_and_back_whatever_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file = tmp_path / "got.pt"
    run_ranks(work.exchange, {"devices": 2, "device": "cpu", "file": str(file)})
    got = torch.load(file, weights_only=True)
    assert [value["rank"] for value in got["values"]] == [0, 1]
    assert [value["rows"].unique().tolist() for value in got["values"]] == [[3], [4]]
    assert got["start"] == {"number": 3, "names": ["a", "\udcff"]}
    assert (got["sum"], got["device"]) == (3, "cpu")
    assert got["threads"] == max(1, torch.get_num_threads() // 2)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^rank 1 of 2 \(cpu\) was killed by SIGKILL, .*the same command goes on from"
    ):
        run_ranks(work.fail, {"devices": 2, "device": "cpu", "how": "killed"})


@pytest.mark.slow
def test_an_error_of_a_rank_is_the_commands() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/full'") as caught:
        run_ranks(work.fail, {"devices": 2, "device": "cpu", "how": "raises"})
    assert "in fail" in str(caught.value.__cause__)  # where it came from, for a fault of ours


@pytest.mark.parametrize(
    ("devices", "device", "message"),
    [
        (2, "auto", r"2 processes need as many cards, 0 found; lower devices, or set device=cpu"),
        (2, "cuda:1", r"device=cuda:1 is one device, but there are 2 processes; set device=auto or device=cpu"),
        (0, "cpu", r"devices: expected a whole number of at least 1, got 0"),
        ("all", "cpu", r"devices: expected a whole number of at least 1, got 'all'"),
    ],
)
def test_devices_that_cannot_be_are_refused(
    devices: Any, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match=message):
        run_ranks(work.fail, {"devices": devices, "device": device})


@pytest.mark.parametrize(("cards", "device", "count"), [(0, "auto", 1), (3, "auto", 3), (3, "cuda", 3), (3, "cpu", 1)])
def test_auto_is_a_process_for_each_card(cards: int, device: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    monkeypatch.setattr("saicinpainting.io.ranks._start", lambda work, settings, count: counts.append(count))
    run_ranks(lambda settings, ranks: counts.append(ranks.count), {"devices": "auto", "device": device})
    assert counts == [count]


def test_torchruns_variables_have_to_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"RANK and WORLD_SIZE are set, but .*MASTER_ADDR expected.*; start it by torchr"
    ):
        run_ranks(work.fail, {"devices": 1, "device": "cpu"})
    with pytest.raises(InputError, match=r"devices=2: torchrun has started the processes; leave devices out"):
        run_ranks(work.fail, {"devices": 2, "device": "cpu"})


def test_each_rank_has_its_share_in_turn() -> None:
    assert [Ranks(rank, 3).mine(range(8)) for rank in range(3)] == [range(0, 8, 3), range(1, 8, 3), range(2, 8, 3)]
    assert Ranks().gather("all") == ["all"]
    assert in_threads(3, lambda ranks: ranks.share(lambda: ranks.rank)) == [0, 0, 0]
    assert in_threads(2, lambda ranks: ranks.gather([ranks.rank])) == [[[0], [1]], []]
