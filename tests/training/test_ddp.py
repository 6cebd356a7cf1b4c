"""Two processes on one machine: both hold the same weights, and metrics are over all images."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.strategy import make_ddp_strategy
from saicinpainting.utils import InputError
from tests.helpers import ROOT, run_script, shrunk, write_data


def train(root: Path, name: str, *extra: str) -> dict:
    run = run_script("train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={root / name}"), *extra, cwd=root)
    assert run.returncode == 0, run.stderr
    return {
        "checkpoint": read_checkpoint(root / name / "models" / "last.ckpt"),
        "log": (root / name / "train.log").read_text(),
        "stderr": run.stderr,
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("ddp")
    write_data(root / "data", val_images=4)
    return root, train(root, "two", "trainer.kwargs.devices=2", "trainer.kwargs.max_epochs=2")


def test_each_rank_takes_its_share_of_the_images(two):
    _, result = two
    # Eight images, batches of two, two ranks: two steps an epoch.
    assert result["checkpoint"]["global_step"] == 4


def test_every_image_of_visual_test_is_drawn(two: tuple[Path, dict]):
    root, _ = two
    drawn = {path.name for path in (root / "two" / "samples" / "epoch0001_test").iterdir()}
    assert drawn == {f"batch{i:07d}.jpg" for i in range(4)}


def test_lightning_does_not_warn_of_metrics_that_are_over_all_ranks(two: tuple[Path, dict]):
    _, result = two
    assert "sync_dist" not in result["stderr"]


def test_metrics_are_over_the_images_of_all_ranks(two):
    """One process that evaluates the same weights on all images finds the same mean."""
    root, result = two
    alone = train(
        root, "one", f"trainer.resume_from_checkpoint={root / 'two' / 'models' / 'last.ckpt'}",
        "trainer.kwargs.max_epochs=3", "optimizers.generator.lr=0", "optimizers.discriminator.lr=0",
        "trainer.kwargs.num_sanity_val_steps=-1",
    )  # fmt: skip

    def totals(log: str) -> list[float]:
        return [float(mean) for mean in re.findall(r"val metrics.*\n.*\n.*\nssim +total +(\S+)", log)]

    sanity_check_of_the_loaded_weights = totals(alone["log"])[0]
    assert totals(result["log"])[-1] == pytest.approx(sanity_check_of_the_loaded_weights, abs=2e-6)


def test_processes_that_are_spawned_train_and_log_as_those_of_ddp(two: tuple[Path, dict]):
    root, result = two
    spawned = train(root, "spawned", "trainer.kwargs.devices=2", "trainer.kwargs.max_epochs=2",
                    "trainer.kwargs.strategy=ddp_spawn")  # fmt: skip
    for name, tensor in result["checkpoint"]["state_dict"].items():
        torch.testing.assert_close(spawned["checkpoint"]["state_dict"][name], tensor, rtol=0, atol=0)
    metrics = re.compile(r"- (?:val|test) metrics after.*\n.*\n.*\nssim .*")
    assert metrics.findall(spawned["log"]) == metrics.findall(result["log"])
    assert len(metrics.findall(spawned["log"])) == 4
    assert "sync_dist" not in spawned["stderr"]


def test_an_error_of_a_spawned_process_is_one_line(two: tuple[Path, dict]):
    root, _ = two
    overrides = shrunk(root, f"hydra.run.dir={root / 'stops'}", "trainer.kwargs.strategy=ddp_spawn")
    overrides += ["trainer.kwargs.devices=2", "+training_model.nonfinite=stop", "optimizers.generator.lr=1e38"]
    run = run_script("train.py", "-cn", "lama-fourier", *overrides, "trainer.kwargs.max_epochs=3", cwd=root)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert re.match(r"error: step \d+: the gradient of the .* is nan", run.stderr.splitlines()[-1])


def test_two_machines_under_torchrun_train_as_two_processes_of_one(two: tuple[Path, dict]):
    """Two launchers on this machine find each other as they would over a network."""
    root, result = two
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    overrides = shrunk(root, f"hydra.run.dir={root / 'torchrun'}", "trainer.kwargs.max_epochs=2")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command = [*launcher, "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=lama"]
    command += [str(ROOT / "bin" / "train.py"), "-cn", "lama-fourier", *overrides, "+trainer.kwargs.num_nodes=2"]
    machines = [
        subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    weights = read_checkpoint(root / "torchrun" / "models" / "last.ckpt")["state_dict"]
    for name, tensor in result["checkpoint"]["state_dict"].items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def dump(folder: Path, *arguments: str) -> Path:
    worker = Path(__file__).with_name("ddp_worker.py")
    subprocess.run([sys.executable, str(worker), str(folder), *arguments], check=True, cwd=folder, timeout=300)
    return folder


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dump(tmp_path_factory.mktemp("dumps"), "2")


def test_both_ranks_hold_the_same_weights_after_every_step(dumps: Path):
    files = sorted(dumps.glob("*_rank0.pt"))
    assert len(files) == 4  # two epochs of eight images, four a batch, on two ranks
    previous = None
    for file in files:
        first, second = (torch.load(str(file).replace("rank0", f"rank{rank}"))["state"] for rank in (0, 1))
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        if previous is not None:  # both networks have moved
            for network in ("generator", "discriminator"):
                assert any(not torch.equal(first[n], previous[n]) for n in first if n.startswith(network))
        previous = first


def test_gradients_are_those_of_one_process_with_the_joint_batch(tmp_path: Path):
    """With batch norm frozen, or each rank would normalise by its own half of the batch."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = dump(tmp_path / "one", "1", "frozen"), dump(tmp_path / "two", "2", "frozen")
    files = sorted(one.glob("*_rank0.pt"))
    assert len(files) == 4
    for file in files:
        joint, *halves = (
            torch.load(folder / file.name.replace("rank0", f"rank{rank}"))
            for folder, rank in ((one, 0), (two, 0), (two, 1))
        )
        numbers = torch.cat([half["numbers"] for half in halves])
        assert sorted(numbers.tolist()) == sorted(joint["numbers"].tolist())
        networks = {name.split(".")[0] for name in joint["gradients"]}
        assert networks == {"generator", "discriminator"}
        assert joint["gradients"].keys() == joint["state"].keys()  # nothing trains without a gradient
        for half in halves:
            for name, gradient in joint["gradients"].items():
                torch.testing.assert_close(half["gradients"][name], gradient, rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(half["state"][name], joint["state"][name], rtol=1e-9, atol=1e-12)


def test_ddp_holds_one_network_at_a_time_and_looks_for_nothing():
    strategy = make_ddp_strategy("ddp")
    assert not strategy._ddp_kwargs.get("find_unused_parameters", False)
    assert not strategy._ddp_kwargs["broadcast_buffers"]


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_stage_2"])
def test_strategies_that_cannot_train_two_networks_in_turns_are_refused(name: str):
    with pytest.raises(InputError, match=rf"trainer\.kwargs\.strategy={name}: .* expected auto, ddp"):
        make_ddp_strategy(name)
