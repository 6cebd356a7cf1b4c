"""The counts of benchmarks/step_cost.py, against formulas and PyTorch's own counter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _foreach_utils
from torch.utils.flop_counter import FlopCounterMode

from saicinpainting.networks import dft
from saicinpainting.training.module import InpaintingModule
from tests.helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts find each other by where they lie

import step_cost
from cards import CARDS
from counting import Cost, OperatorCounter, StepCost, counted, fake_tensors, mean_cost

NARROW = ["generator.ngf=4", "generator.n_blocks=1", "discriminator.ndf=4"]
SMALL = [*NARROW, "losses.resnet_pl.weight=0"]


def count(variant: str = "default", *overrides: str, precision: str = "32") -> dict[str, StepCost]:
    settings = [*step_cost.STEPS[variant], *SMALL, *overrides]
    foreach = variant != "official"
    return step_cost.step_costs("lama-fourier", settings, batch=2, size=64, precision=precision, foreach=foreach)


@pytest.fixture(scope="module")
def default() -> StepCost:
    return count()["R1"]


# ---- the counter -----------------------------------------------------------------------------------------------------


def test_arithmetic_and_traffic_of_few_operators_follow_their_formulas() -> None:
    counter = OperatorCounter()
    with fake_tensors() as fake:
        with fake:
            x, kernel, matrix = torch.empty(2, 3, 10, 8), torch.empty(5, 3, 3, 3), torch.empty(8, 7)
        with counted(counter):
            with counter.phase("convolution"):
                y = F.conv2d(x, kernel, padding=1)
            with counter.phase("product"):
                x.view(60, 8) @ matrix
            y + y
    phases = counter.cost.by_phase()
    values = 2 * 5 * 10 * 8  # of the convolution's result
    flop, moved = 2 * values * 3 * 3 * 3, 4 * (x.numel() + kernel.numel() + values)
    assert phases["convolution"] == Cost(operators=1, moved=moved, convolution_flop=flop)
    assert phases["product"] == Cost(operators=1, moved=4 * (60 * 8 + 8 * 7 + 60 * 7), product_flop=2 * 60 * 8 * 7)
    assert phases["rest"] == Cost(operators=1, moved=4 * 3 * values)
    assert counter.cost.total == sum(counter.cost.by_operator().values(), Cost())


def test_the_peak_is_of_the_tensors_that_live_at_once() -> None:
    counter = OperatorCounter()
    with fake_tensors() as fake:
        with fake:
            x = torch.empty(1000)
        with counted(counter):
            y = x + 1
            z = y[:500] * 2  # 1000 + 1000 + 500 values
            del y
            z = z + z  # 1000 + 500 + 500
            for _ in range(9):
                x * 3  # 1000 + 500 + 1000, each time anew
            assert counter.cost.peak == 4 * 2500
            counter.cost = StepCost()
            del z
            x.add_(1)
    assert counter.cost.peak == 4 * 1000


def test_views_empty_tensors_and_numbers_on_the_host_cost_nothing() -> None:
    counter = OperatorCounter()
    with fake_tensors() as fake:
        with fake:
            x = torch.empty(2, 3, 4)
        with counted(counter):
            torch.empty_like(x.transpose(0, 1)[1:].expand(2, 2, 4).detach())
            on_host = torch.ones(3) + 1
            assert on_host.tolist() == [2, 2, 2]
    assert counter.cost.total == Cost()


@pytest.mark.parametrize(
    "read",
    [float, bool, lambda x: x.item(), lambda x: x.cpu(), lambda x: x.to("cpu"), lambda x: x.tolist(), torch.nonzero],
)
def test_every_way_to_read_a_tensor_on_the_host_is_found(read) -> None:
    counter = OperatorCounter()
    with fake_tensors() as fake:
        with fake:
            x = torch.empty(())
        with counted(counter):
            read(x)
    assert counter.cost.total.host_reads == 1


def test_tensors_that_are_made_on_a_device_are_not_the_hosts() -> None:
    counter = OperatorCounter()
    with fake_tensors() as fake:
        with fake:
            x = torch.empty(3)
        with counted(counter):
            flag = torch.zeros((), device=x.device)
            flag += x.sum()
            assert bool(flag)
    assert counter.cost.total.host_reads == 1
    assert counter.cost.by_operator().keys() == {"zeros", "sum", "add_", "_local_scalar_dense"}


def test_the_mean_step_has_the_rare_one_once_in_so_many() -> None:
    often, rare = StepCost({("a", "add"): Cost(operators=4)}), StepCost({("a", "add"): Cost(operators=8)})
    rare.add("b", "mul", Cost(moved=16))
    mean = mean_cost(often, rare, 4)
    assert mean.by_phase() == {"a": Cost(operators=5), "b": Cost(moved=4)}


def test_a_floor_is_the_larger_of_arithmetic_and_traffic() -> None:
    card = CARDS["A100"]
    cost = Cost(moved=2.039e12, convolution_flop=156e12, product_flop=19.5e12)
    assert card.memory_ms(cost) == pytest.approx(1000)
    assert card.arithmetic_ms(cost, half=False) == pytest.approx(2000)
    assert card.arithmetic_ms(cost, half=True) == pytest.approx(1000 * (156 + 19.5) / 312)
    row = step_cost.described(StepCost({("a", "convolution"): cost}), card, half=True)
    assert row["floor_ms"] == row["memory_ms"]
    assert row["floor_ms"] < row["attainable_ms"]


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_passes_every_phase_and_its_parts_make_up_the_total(default: StepCost) -> None:
    phases = default.by_phase()
    assert phases.keys() == {
        "rest",
        "G forward",
        "losses forward",
        "G backward",
        "G clip",
        "G optimizer",
        "fresh G forward",
        "D forward, R1",
        "D backward",
        "D clip",
        "D optimizer",
    }
    assert sum(phases.values(), Cost()) == default.total
    assert phases["G forward"] == phases["fresh G forward"]
    assert phases["rest"].flop == 0
    assert phases["rest"].operators < 40


def test_the_generators_arithmetic_is_what_pytorch_counts_on_real_numbers(default: StepCost) -> None:
    generator = step_cost.build("lama-fourier", [*step_cost.STEPS["default"], *SMALL]).generator
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.rand(2, 4, 64, 64))
    assert default.by_phase()["G forward"].flop == counter.get_total_flops()


def test_lists_of_tensors_are_clipped_and_stepped_at_once_but_one_at_a_time_in_the_official_step(default) -> None:
    official = count("official")["R1"].by_phase()
    ours = default.by_phase()
    for phase in ("G clip", "G optimizer", "D clip", "D optimizer"):
        assert ours[phase].operators < 20 < official[phase].operators
    assert official["G forward"].product_flop == 0 < ours["G forward"].product_flop  # FFT
    assert official["fresh G forward"] == official["G forward"]
    assert sum(official.values(), Cost()).host_reads == 0


def test_the_fast_step_has_one_generator_forward_and_seldom_a_penalty() -> None:
    costs = count("fast", precision="bf16-mixed")
    assert list(costs) == ["R1", "mean of 16"]
    assert "fresh G forward" not in costs["R1"].by_phase()
    assert costs["mean of 16"].total.flop < costs["R1"].total.flop
    assert costs["R1"].by_operator()["_foreach_copy_"].operators > 20  # a layer's weights are cast at once


def test_a_host_read_planted_in_a_step_is_found(monkeypatch: pytest.MonkeyPatch, default: StepCost) -> None:
    original = InpaintingModule.generator_loss

    def reading(self, batch):
        loss, logs = original(self, batch)
        assert float(loss) == 1  # a tensor without numbers
        return loss, logs

    monkeypatch.setattr(InpaintingModule, "generator_loss", reading)
    planted = count()["R1"].by_phase()
    assert planted["losses forward"].host_reads == default.by_phase()["losses forward"].host_reads + 1


def test_averaging_has_a_phase_where_it_is_on() -> None:
    average = [f"+training_model.{key}" for key in ("average_generator=true", "average_generator_start_step=0")]
    cost = count("default", *average, "+training_model.average_generator_period=1")["R1"]
    assert cost.by_phase()["averaging"].operators > 0


def test_nothing_without_numbers_stays_behind(default: StepCost) -> None:
    assert not any(isinstance(matrix, FakeTensor) for matrices in dft._CACHE.values() for matrix in matrices)
    assert FakeTensor not in _foreach_utils._foreach_supported_types


def test_the_table_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "step_cost.py",
        "--cases",
        "lama-fourier:2:32",
        "--variants",
        "default",
        "--size",
        "64",
        "--card",
        "V100",
    ]
    file = tmp_path / "cost.json"
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(file), "--override", *NARROW])
    step_cost.main()
    written = json.loads(file.read_text())
    assert written["card"]["name"] == "V100"
    (row,) = written["rows"]
    assert row["case"] == "lama-fourier 64 px batch 2 32"
    assert sum(phase["operators"] for phase in row["phases"].values()) == row["operators"]
    assert f"| {row['case']} | default | R1 | {row['operators']} |" in capsys.readouterr().out


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of --options for a network of three narrow blocks, by variant."""
    file = tmp_path_factory.mktemp("options") / "cost.json"
    command = ["step_cost.py", "--options", "--cases", "lama-fourier:2:32", "--size", "64", "--json", str(file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--override", *SMALL, "generator.n_blocks=3"])
        step_cost.main()
    return {row["variant"]: row for row in json.loads(file.read_text())["rows"]}


def phase(row: dict[str, Any], name: str, unit: str = "gigabytes") -> float:
    return row["phases"][name][unit]


def test_every_option_has_a_row_beside_the_plain_step(options) -> None:
    assert list(options) == ["plain", *step_cost.OPTIONS]
    plain = options["plain"]
    for row in options.values():
        assert row["host_reads"] == 0
        for key in ("operators", "gigabytes", "peak_gigabytes"):
            assert row[f"{key}_ratio"] * plain[key] == pytest.approx(row[key])


def test_the_focal_frequency_loss_costs_in_the_losses_and_their_gradient_alone(options) -> None:
    plain, focal = options["plain"], options["focal_frequency"]
    changed = {name for name in plain["phases"] if plain["phases"][name] != focal["phases"][name]}
    assert changed == {"losses forward", "G backward"}
    assert all(phase(focal, name) > phase(plain, name) for name in changed)


def test_the_relativistic_loss_costs_in_the_discriminators_step_and_two_operators_of_the_generators(options) -> None:
    plain, paired = options["plain"], options["relativistic"]
    changed = {name for name in plain["phases"] if plain["phases"][name]["tflop"] != paired["phases"][name]["tflop"]}
    assert changed == {"D forward, R1", "D backward"}
    pairs = phase(paired, "losses forward", "operators") - phase(plain, "losses forward", "operators")
    assert abs(pairs) <= 2


def test_checkpointed_blocks_keep_fewer_bytes_and_are_computed_again_in_the_backward_pass(options) -> None:
    plain, saving = options["plain"], options["checkpoint_blocks"]
    assert saving["peak_gigabytes"] < plain["peak_gigabytes"]
    assert phase(saving, "G backward", "tflop") > phase(plain, "G backward", "tflop")
    assert phase(saving, "G forward", "tflop") == phase(plain, "G forward", "tflop")


def test_frozen_parts_take_bytes_from_the_generators_optimizer_and_from_what_is_kept(options) -> None:
    plain, frozen = options["plain"], options["frozen_parts"]
    generator = step_cost.build("lama-fourier", [*step_cost.STEPS["default"], *SMALL, "generator.n_blocks=3"]).generator
    sizes = {name: parameter.numel() for name, parameter in generator.named_parameters()}
    trained = sum(n for name, n in sizes.items() if int(name.split(".")[1]) > 4)
    # Adam moves bytes in proportion to what it trains, but for a step counter of each tensor.
    assert phase(frozen, "G optimizer") / phase(plain, "G optimizer") == pytest.approx(
        trained / sum(sizes.values()), rel=0.01
    )
    assert frozen["peak_gigabytes"] < plain["peak_gigabytes"]
    assert phase(frozen, "G forward", "tflop") == phase(plain, "G forward", "tflop")


def test_frozen_batch_norm_counts_no_batches(options) -> None:
    plain, frozen = options["plain"], options["frozen_batch_norm"]
    for name in ("G forward", "fresh G forward"):
        assert phase(frozen, name, "operators") < phase(plain, name, "operators")
    assert frozen["tflop"] == plain["tflop"]


def test_a_warm_up_step_has_one_forward_pass_of_the_generator_and_the_discriminators_whole_step(options) -> None:
    plain, warming = options["plain"], options["discriminator_warmup_steps"]
    left_out = {"G forward", "losses forward", "G backward", "G clip", "G optimizer"}
    assert plain["phases"].keys() - warming["phases"].keys() == left_out
    for name in ("fresh G forward", "D forward, R1", "D backward", "D optimizer"):
        assert warming["phases"][name] == plain["phases"][name]


def test_an_average_costs_its_update_alone(options) -> None:
    plain, averaging = options["plain"], options["average_generator"]
    assert averaging["phases"].pop("averaging")["operators"] > 0
    assert averaging["phases"] == plain["phases"]


def test_micro_batches_keep_fewer_bytes_for_the_same_arithmetic(options) -> None:
    plain, split = options["plain"], options["micro_batches"]
    assert split["peak_gigabytes"] < plain["peak_gigabytes"]
    assert split["tflop"] == pytest.approx(plain["tflop"])
    assert phase(split, "G forward", "operators") == 2 * phase(plain, "G forward", "operators")
    assert split["phases"]["G optimizer"] == plain["phases"]["G optimizer"]


@pytest.mark.parametrize("free", ["cosine", "resume_lr"])
def test_learning_rates_cost_nothing_at_a_step(options, free: str) -> None:
    assert {**options[free], "variant": "plain"} == options["plain"]
