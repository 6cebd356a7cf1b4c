"""Two processes on one machine: both hold the same weights, and metrics are over all images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saicinpainting.checkpoint import read_checkpoint
from tests.helpers import run_script, shrunk, write_data


def train(root: Path, name: str, *extra: str) -> dict:
    run = run_script("train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={root / name}"), *extra, cwd=root)
    assert run.returncode == 0, run.stderr
    return {
        "checkpoint": read_checkpoint(root / name / "models" / "last.ckpt"),
        "log": (root / name / "train.log").read_text(),
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


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dumps")
    worker = Path(__file__).with_name("ddp_worker.py")
    subprocess.run([sys.executable, str(worker), str(folder)], check=True, cwd=folder, timeout=300)
    return folder


def test_both_ranks_hold_the_same_weights_after_every_step(dumps: Path):
    files = sorted(dumps.glob("*_rank0.pt"))
    assert len(files) == 4  # two epochs of eight images, two a batch, on two ranks
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


def test_every_image_is_seen_once_an_epoch_in_another_order(dumps: Path):
    orders = []
    for epoch in (0, 1):
        numbers = [
            torch.load(dumps / f"epoch{epoch}_step{step}_rank{rank}.pt")["numbers"].tolist()
            for step in (0, 1)
            for rank in (0, 1)
        ]
        order = [number for batch in numbers for number in batch]
        assert sorted(order) == list(range(8))
        orders.append(order)
    assert orders[0] != orders[1]
