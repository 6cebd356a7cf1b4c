"""bin/plan.py against what a shrunk run counts itself."""

from __future__ import annotations

import json
import logging
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from saicinpainting.commands.plan import (
    checkpoint_bytes,
    compose_config,
    cost_lines,
    describe,
    images_here,
    measured_rate,
    steps_of_run,
    time_line,
    when_it_ends,
)
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.log_reports import RunLog, read_runs
from saicinpainting.training.reference_log import beside_reference
from saicinpainting.training.run import make_data_module, train
from saicinpainting.utils import InputError
from tests.helpers import run_script, write_data
from tests.runs import compose_run, write_log


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of two epochs; the experiment is in `run`, with a log as bin/train.py leaves it."""
    root = tmp_path_factory.mktemp("plan")
    write_data(root / "data")
    (root / "run").mkdir()
    handler = logging.FileHandler(root / "run" / "train.log")
    logger = logging.getLogger("saicinpainting")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        train(compose_run(root, "trainer.kwargs.max_epochs=2"), root / "run")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return root


def test_steps_and_batch_are_those_that_the_run_counted(finished: Path) -> None:
    config = compose_run(finished, "trainer.kwargs.max_epochs=2")
    steps = steps_of_run(config, 1, images_here(config))
    log = (finished / "run" / "train.log").read_text()
    assert f"{steps.total_batch} a step" in log
    assert f"steps: {steps.epoch} an epoch, {steps.steps} in all" in log
    position = read_checkpoint(finished / "run" / "models" / "last.ckpt")["loops"]["fit_loop"]
    assert position["epoch_loop.batch_progress"]["total"]["completed"] == steps.steps


def test_a_checkpoint_is_as_large_as_planned(finished: Path) -> None:
    planned = checkpoint_bytes(compose_run(finished, "trainer.kwargs.max_epochs=2"))
    weighed = (finished / "run" / "models" / "last.ckpt").stat().st_size
    # The file has names and places of tensors besides: much beside the few weights of a shrunk run.
    assert planned < weighed < planned + 400_000


@pytest.mark.parametrize("cards", [1, 2, 4, 8])
def test_an_epoch_is_shared_among_cards_as_by_the_data_module(finished: Path, cards: int) -> None:
    config = compose_run(finished, "data.batch_size=1", "trainer.kwargs.limit_train_batches=3")
    sections = OmegaConf.to_container(OmegaConf.masked_copy(config, ["data", "location", "generator"]), resolve=True)
    data = make_data_module(sections)  # type: ignore[arg-type]
    steps = steps_of_run(config, cards, images_here(config))
    assert steps.epoch == min(3, data.train_batches(cards))
    assert steps.total_batch == data.batch_size(cards)


@pytest.mark.parametrize(("cards", "k"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_big_lama_has_120_images_a_step_on_any_cards(cards: int, k: int) -> None:
    config = compose_config("big-lama", [])
    steps = steps_of_run(config, cards, None)
    assert (steps.micro_batches, steps.total_batch) == (k, 120)
    assert (steps.epoch, steps.steps) == (25_000, 1_000_000)
    # Processes of k micro-batches share the images out as k times as many processes would.
    assert steps_of_run(config, cards, 1_000_000).epoch == -(-(1_000_000 // 8) // 15)


def test_a_total_that_cards_cannot_make_is_told_in_a_line() -> None:
    steps = steps_of_run(compose_config("big-lama", []), 3, None)
    assert (steps.micro_batches, steps.total_batch) == (2, 90)
    assert "= 90 a step, not data.total_batch_size=120: data.batch_size=10 gives them" in steps.batch_line


def test_time_follows_from_the_rate() -> None:
    steps = steps_of_run(compose_config("big-lama", []), 4, None)
    # 2 micro-batches of 0.1 s, a million steps: 200,000 s on each of 4 cards.
    assert time_line(steps, 0.1).startswith("time: 2 days, 7:33:20 for 1,000,000 steps, 0.200 s a step, 222 card-hours")
    assert "loaders give 600 images a second" in time_line(steps, 0.1)


def test_a_measured_rate_is_of_the_card_the_case_and_the_next_batch(tmp_path: Path) -> None:
    def row(case: str, variant: str, rate: float) -> dict[str, object]:
        return {"case": case, "variant": variant, "images_per_second": rate}

    rows = [
        row("big-lama 256 px batch 30 cuda", "default", 300.0),
        row("big-lama 256 px batch 10 cuda", "default", 250.0),
        row("big-lama 256 px batch 15 cuda", "fast", 500.0),
        row("big-lama 512 px batch 15 cuda", "default", 90.0),
        {"case": "big-lama 256 px batch 15 cuda", "variant": "default", "error": "out of memory"},
    ]
    (tmp_path / "h100").mkdir()
    content = {"machine": {"card": "NVIDIA H100 80GB HBM3"}, "steps": [{"rows": rows}]}
    (tmp_path / "h100" / "gpu.json").write_text(json.dumps(content))
    assert measured_rate(tmp_path, "big-lama", 256, "32", 15, "H100") == (250.0, "h100/gpu.json, default, batch 10")
    assert measured_rate(tmp_path, "big-lama", 256, "bf16-mixed", 15, "H100") == (
        500.0,
        "h100/gpu.json, fast, batch 15",
    )
    assert measured_rate(tmp_path, "big-lama", 256, "32", 15, "V100") is None
    assert measured_rate(tmp_path, "lama-fourier", 256, "32", 15, "H100") is None


def test_a_run_tells_when_it_ends(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("the run:\n  steps: 100 an epoch, 1,000 in all, every image 2.0 times\n")
    # Ten steps of a second before now; the wall times are those of the file.
    file = write_log(tmp_path / "version_0", {"train_gen_l1": {9: 1.0}, "val_ssim_total_mean": {19: 0.5}})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(file))
    board.Reload()
    first, last = board.Scalars("train_gen_l1")[0].wall_time, board.Scalars("val_ssim_total_mean")[0].wall_time
    start = board.Scalars("epoch")[0].wall_time
    pace = (last - start) / (19 - 1)
    assert first < last
    line = when_it_ends(tmp_path, last)
    assert line.startswith(f"20 of 1,000 steps, {pace:.3f} s a step since step 2; ends about ")
    assert datetime.fromtimestamp(last + 980 * pace).strftime("%Y-%m-%d %H:%M") in line
    assert "nothing was logged since" in when_it_ends(tmp_path, last + 10_000)
    assert "resumed now it ends about" in when_it_ends(tmp_path, last + 10_000)


def test_a_finished_run_has_ended(finished: Path) -> None:
    total = read_checkpoint(finished / "run" / "models" / "last.ckpt")["loops"]["fit_loop"]
    steps = total["epoch_loop.batch_progress"]["total"]["completed"]
    line = when_it_ends(finished / "run", datetime.now().timestamp())
    assert line.startswith(f"{steps} of {steps} steps")
    assert line.endswith("it has ended")


def test_the_end_follows_from_the_counts_of_the_run_itself(finished: Path, tmp_path: Path) -> None:
    """A run of three times its steps, at the pace that its event file has."""
    counts = read_checkpoint(finished / "run" / "models" / "last.ckpt")["loops"]["fit_loop"]
    done = counts["epoch_loop.batch_progress"]["total"]["completed"]
    going_on = tmp_path / "run"
    shutil.copytree(finished / "run", going_on, ignore=shutil.ignore_patterns("*.ckpt"))
    log = (going_on / "train.log").read_text()
    (going_on / "train.log").write_text(log.replace(f"{done} in all", f"{3 * done} in all"))
    (events,) = (finished / "tb" / "run").rglob("events*")
    read = [event for event in EventFileLoader(str(events)).Load() if event.HasField("summary")]
    read = [event for event in read if event.summary.value[0].tag != "hp_metric"]
    seconds = read[-1].wall_time - max(event.wall_time for event in read if event.step == 0)
    line = when_it_ends(going_on, read[-1].wall_time)
    said = rf"{done} of {3 * done} steps, (\S+) s a step since step 1; ends about (.*), unless it is stopped"
    found = re.match(said, line)
    assert found, line
    assert read[-1].step == done - 1
    assert float(found[1]) == pytest.approx(seconds / (done - 1), rel=0.1)
    end = read[-1].wall_time + 2 * done * float(found[1])
    assert abs(datetime.strptime(found[2], "%Y-%m-%d %H:%M").timestamp() - end) <= 61


def write_reference_run(folder: Path, fid: dict[int, float], last: int) -> RunLog:
    write_log(folder / "version_0", {"val_fid_total_mean": fid, "train_gen_l1": {last: 1.0}})
    return read_runs(folder)[0]


def test_the_reference_log_is_beside_a_run_at_the_steps_it_has(tmp_path: Path) -> None:
    title = "reference, a public log on Places, at step 24,999: FID 14.28, LPIPS 0.134, SSIM 0.875, F1 0.866"
    before = write_reference_run(tmp_path / "before", {}, 4_999)
    assert list(beside_reference(before)) == [f"{title}; this run is at step 4,999 and has not reached it"]
    at = write_reference_run(tmp_path / "at", {24_999: 15.5}, 24_999)
    assert list(beside_reference(at)) == [f"{title}; this run: FID 15.50"]
    past = write_reference_run(tmp_path / "past", {19_999: 18.0, 29_999: 14.0}, 30_100)
    assert list(beside_reference(past)) == [
        f"{title}; this run (between two validations): FID 16.00",
        "the reference has no figures past step 24,999; this run is at step 30,100",
    ]
    late = write_reference_run(tmp_path / "late", {29_999: 14.0}, 24_999)
    assert "this run has none of these there" in next(beside_reference(late))


def test_a_run_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.log there"):
        when_it_ends(tmp_path, 0.0)


@pytest.mark.slow
def test_a_card_that_nobody_measured_has_an_estimate_that_says_so() -> None:
    small = ["generator.ngf=4", "generator.n_blocks=1", "discriminator.ndf=4", "data.train.out_size=64"]
    config = compose_config("lama-regular", small)
    steps = steps_of_run(config, 2, None)
    rate, memory, time = cost_lines("lama-regular", small, config, steps, "V100")
    assert "an estimate" in rate
    assert "V100" in rate
    assert "71% of its arithmetic" in rate  # float32 without TF32
    step = 10 / float(rate.split()[1])
    assert f"{step:.3f} s a step" in time
    assert 0 < float(memory.split()[1]) < 5
    with pytest.raises(InputError, match=r"benchmarks/step_cost\.py: .*invalid choice: 'V10'"):
        list(cost_lines("lama-regular", small, config, steps, "V10"))


def test_a_plan_without_the_data_says_what_it_takes_for_given() -> None:
    config = compose_config("big-lama", [])
    lines = list(describe(config, steps_of_run(config, 8, None)))
    assert lines[0] == "batch: 15 images x 8 cards = 120 a step"
    assert lines[1] == "steps: 25,000 an epoch, 1,000,000 in all, 120,000,000 images"
    assert "3,000,000 images or more are taken for given" in lines[2]


def test_wrong_cards_are_named(tmp_path: Path) -> None:
    found = run_script("plan.py", "-cn", "big-lama", "--cards", "H100", cwd=tmp_path)
    assert found.returncode == 2
    assert "expected NxCARD such as 8xH100, got H100" in found.stderr
