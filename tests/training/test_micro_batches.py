"""Micro-batches on one process against as many processes, and what `data.total_batch_size` makes of the cards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from saicinpainting.data.sampler import MicroBatchSampler, TrainSampler
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.micro_batches import choose_micro_batches, describe_batch, split_batch
from saicinpainting.utils import InputError
from tests.helpers import ROOT, assert_same, run_script, shrunk, write_data

STEPS = 10
IMAGES = 22  # of an epoch: two steps of eight and one of four, and two that are left out


# Where a hole is the whole of a batch, batch norm of what is constant leaves nothing but rounding.
SMALL_HOLES = [
    f"data.train.mask_gen_kwargs.{key}"
    for key in (
        "irregular_kwargs.max_len=20", "irregular_kwargs.max_width=10", "box_kwargs.margin=2",
        "box_kwargs.bbox_min_size=8", "box_kwargs.bbox_max_size=20",
    )
]  # fmt: skip


def overrides(root: Path, name: str, *extra: str) -> list[str]:
    return shrunk(
        root, f"hydra.run.dir={root / name}", "logger=csv", "data.batch_size=2", "data.total_batch_size=null",
        "data.val=null", "data.visual_test=null", "trainer.kwargs.precision=64-true", "trainer.kwargs.max_epochs=-1",
        f"+trainer.kwargs.max_steps={STEPS}", "+losses.adversarial.gp_interval=2",
        "+trainer.kwargs.enable_progress_bar=false", "+training_model.average_generator=true",
        "+training_model.average_generator_start_step=4", "+training_model.average_generator_period=2",
        *SMALL_HOLES, *extra,
    )  # fmt: skip


def train(root: Path, name: str, *extra: str) -> dict[str, Any]:
    run = run_script("train.py", "-cn", "lama-fourier", *overrides(root, name, *extra), cwd=root)
    assert run.returncode == 0, run.stderr
    *_, logs = sorted((root / name).rglob("metrics.csv"))  # a resumed run has one for each start
    return {
        "checkpoint": read_checkpoint(root / name / "models" / "last.ckpt"),
        "logs": pd.read_csv(logs),
        "log": (root / name / "train.log").read_text(),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    write_data(folder / "data", train_images=IMAGES)
    return folder


@pytest.fixture(scope="module")
def four_micro_batches(root: Path) -> dict[str, Any]:
    return train(root, "micro4", "+trainer.kwargs.accumulate_grad_batches=4")


def assert_near(value: Any, expected: Any, where: str = "") -> None:
    """Numbers to 1e-9, or that share of the largest of their tensor, everything else equal."""
    if torch.is_tensor(expected):
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        assert float((value - expected).abs().max() if expected.numel() else 0) <= 1e-9 * max(scale, 1), where
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), where
        for key in expected:
            assert_near(value[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        for i, item in enumerate(expected):
            assert_near(value[i], item, f"{where}.{i}")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=1e-9), where
    else:
        assert value == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [True, False])
def test_four_micro_batches_are_four_processes(root: Path, four_micro_batches: dict[str, Any], reuse: bool) -> None:
    option = f"+training_model.reuse_generator_output={str(reuse).lower()}"
    one = four_micro_batches if not reuse else train(root, "one", "+trainer.kwargs.accumulate_grad_batches=4", option)
    four = train(root, f"four_{reuse}", "trainer.kwargs.devices=4", option)
    assert one["checkpoint"]["global_step"] == four["checkpoint"]["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states"):
        assert_near(one["checkpoint"][part], four["checkpoint"][part])
    assert sorted(one["logs"].columns) == sorted(four["logs"].columns)
    assert {"train_gen_l1", "train_adv_discr_real_gp", "train_gen_grad_norm", "step"} <= set(one["logs"].columns)
    for column in [c for c in one["logs"].columns if not c.startswith(("speed", "memory"))]:
        assert one["logs"][column].tolist() == pytest.approx(
            four["logs"][column].tolist(), rel=1e-9, abs=1e-12, nan_ok=True
        )


@pytest.mark.slow
def test_two_processes_with_two_micro_batches_are_four_processes(
    root: Path, four_micro_batches: dict[str, Any]
) -> None:
    mixed = train(root, "mixed", "trainer.kwargs.devices=2", "data.total_batch_size=8")
    assert "batch: 2 images x 2 x 2 micro-batches = 8 a step" in mixed["log"]
    for part in ("state_dict", "optimizer_states"):
        assert_near(mixed["checkpoint"][part], four_micro_batches["checkpoint"][part])


@pytest.mark.slow
def test_frozen_parts_and_a_warm_up_are_the_same_on_two_processes(root: Path) -> None:
    options = (
        "+training_model.frozen_parts=[generator.model.1-2,discriminator.model0]", "++trainer.kwargs.max_steps=4",
        "+training_model.discriminator_warmup_steps=2",
    )  # fmt: skip
    one = train(root, "frozen1", "+trainer.kwargs.accumulate_grad_batches=2", *options)["checkpoint"]
    two = train(root, "frozen2", "trainer.kwargs.devices=2", *options)["checkpoint"]
    assert one["global_step"] == two["global_step"] == 4
    for part in ("state_dict", "optimizer_states"):
        assert_near(two[part], one[part])


@pytest.mark.slow
def test_pairs_and_both_penalties_are_the_same_on_two_processes(root: Path) -> None:
    options = ("losses.adversarial.kind=relativistic", "++trainer.kwargs.max_steps=4")
    one = train(root, "pairs1", "+trainer.kwargs.accumulate_grad_batches=2", *options)
    two = train(root, "pairs2", "trainer.kwargs.devices=2", *options)
    for part in ("state_dict", "optimizer_states"):
        assert_near(two["checkpoint"][part], one["checkpoint"][part])
    for name in ("train_adv_discr_real_gp", "train_adv_discr_fake_gp", "train_gen_adv"):
        assert two["logs"][name].tolist() == pytest.approx(one["logs"][name].tolist(), rel=1e-9, nan_ok=True)


@pytest.mark.slow
def test_a_killed_run_of_micro_batches_goes_on_as_if_it_had_not_been(
    root: Path, four_micro_batches: dict[str, Any]
) -> None:
    extra = ["+trainer.kwargs.accumulate_grad_batches=4", "++trainer.checkpoint_kwargs.every_n_train_steps=1"]
    arguments = overrides(root, "killed", *extra, "trainer.resume_from_checkpoint=auto")
    command = [sys.executable, str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", *arguments]
    process = subprocess.Popen(
        command, cwd=root, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    last, deadline, written = root / "killed" / "models" / "last.ckpt", time.monotonic() + 120, set()
    while len(written) < 4:  # past the first epoch, in the middle of another
        assert process.poll() is None
        assert time.monotonic() < deadline
        if last.exists():
            written.add(last.stat().st_mtime_ns)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= read_checkpoint(last)["global_step"] < STEPS
    resumed = train(root, "killed", *extra, "trainer.resume_from_checkpoint=auto")
    for part in ("state_dict", "optimizer_states"):
        assert_same(resumed["checkpoint"][part], four_micro_batches["checkpoint"][part])


@pytest.mark.parametrize("drop_last", [True, False])
def test_micro_batches_have_the_images_of_the_processes_they_stand_for(drop_last: bool) -> None:
    def sampler(rank: int, processes: int) -> TrainSampler:
        return TrainSampler(23, seed=3, rank=rank, world_size=processes, epoch_images=20)

    for process in range(2):
        batches = MicroBatchSampler([sampler(2 * process + i, 4) for i in range(2)], 2, drop_last=drop_last)
        for epoch in (0, 1, 2):
            batches.sampler.set_epoch(epoch)
            own = [sampler(2 * process + i, 4) for i in range(2)]
            for one in own:
                one.set_epoch(epoch)
            streams = [list(one) for one in own]
            expected = [streams[0][at : at + 2] + streams[1][at : at + 2] for at in (0, 2, 4)]
            expected = expected[:2] if drop_last else expected
            assert list(batches) == expected
            assert len(batches) == len(expected)


def test_a_batch_is_split_in_order_and_what_is_no_sample_goes_to_all() -> None:
    batch = {"image": torch.arange(6.0).reshape(6, 1), "name": list("abcdef"), "note": "all", "number": torch.tensor(3)}
    parts = split_batch(batch, 3)
    assert [part["image"].flatten().tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part["name"] for part in parts] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert all(part["note"] == "all" and part["number"] == 3 for part in parts)
    with pytest.raises(InputError, match="6 images cannot be 4 micro-batches"):
        split_batch(batch, 4)


@pytest.mark.parametrize(
    ("settings", "total", "processes", "count", "line"),
    [
        ({}, 120, 8, 1, "15 images x 8 = 120 a step"),
        ({}, 120, 2, 4, "15 images x 2 x 4 micro-batches = 120 a step"),
        ({}, 120, 3, 2, "= 90 a step, not data.total_batch_size=120: data.batch_size=10 gives them"),
        ({}, 120, 16, 1, "= 240 a step, not data.total_batch_size=120: no data.batch_size on 16 gives them"),
        ({}, None, 3, 1, "15 images x 3 = 45 a step"),
        ({"accumulate_grad_batches": 5}, 120, 1, 5, "= 75 a step, not data.total_batch_size=120"),
    ],
)
def test_the_cards_decide_how_many_micro_batches_a_step_has(
    settings: dict[str, Any], total: int | None, processes: int, count: int, line: str
) -> None:
    found = choose_micro_batches(settings, total=total, batch_size=15, processes=processes)
    assert found == count
    described = describe_batch(batch_size=15, processes=processes, micro_batches=count, total=total)
    assert line in described


@pytest.mark.parametrize(
    ("settings", "total", "word"),
    [
        ({"accumulate_grad_batches": 0}, None, r"trainer\.kwargs\.accumulate_grad_batches"),
        ({"accumulate_grad_batches": 2, "sync_batchnorm": True}, None, r"sync_batchnorm"),
        ({}, 0, r"data\.total_batch_size"),
        ({}, "many", r"data\.total_batch_size"),
    ],
)
def test_what_cannot_be_accumulated_is_named(settings: dict[str, Any], total: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        choose_micro_batches(settings, total=total, batch_size=15, processes=1)
