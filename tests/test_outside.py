"""A folder of somebody else's, with parts of its own, trains, resumes, predicts and exports."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.utils import InputError
from tests.helpers import run_script, shrunk, write_data

PARTS = """
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from saicinpainting.masks.generators import MaskGenerator
from saicinpainting.metrics.base import ImageMetric, Row, mean_and_std


class MyGenerator(nn.Module):
    size_multiple, min_size = 2, 4

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 2, stride=2),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.layers(x)


class MyLoss(nn.Module):
    def forward(self, predicted, image, mask):
        return ((predicted - image) * mask).square().mean()


class LeftHalf(MaskGenerator):
    def __init__(self, share=0.5):
        self.share = share

    def sample(self, size, rng, iter_i=None, raw_image=None):
        mask = np.zeros(size, np.float32)
        mask[:, : int(self.share * size[1])] = 1
        return mask


class Brightness(ImageMetric):
    higher_is_better = False

    def __init__(self):
        super().__init__(rows={"values": Row(inputs=("pred",))})

    def measure(self, row, pred):
        return pred.mean(dim=(1, 2, 3))

    def summarize(self, rows):
        return mean_and_std(rows["values"])


class MyLogger(CSVLogger):
    pass


class CountsBatches(pl.Callback):
    count = 0

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def on_train_end(self, trainer, module):
        Path(trainer.default_root_dir, "batches.txt").write_text(str(self.count))
"""
RUN = """
defaults:
  - lama-fourier
  - _self_
  - override generator: mine
losses:
  extra:
    mine: {_target_: my_lab.parts.MyLoss, weight: 2}
evaluator:
  extra:
    brightness: {_target_: my_lab.parts.Brightness}
data:
  train:
    mask_gen_kwargs: {_target_: my_lab.parts.LeftHalf, share: 0.25}
optimizers:
  generator:
    _target_: torch.optim.SGD
    lr: 0.01
    scheduler: {_target_: torch.optim.lr_scheduler.StepLR, step_size: 4, gamma: 0.1}
logger:
  mine: {_target_: my_lab.parts.MyLogger, name: mine}
callbacks:
  counts: {_target_: my_lab.parts.CountsBatches}
"""
OFFICIAL = ("generator.ngf=4", "generator.n_blocks=1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outside folder, a run of it that was resumed for a second epoch, and data."""
    root = tmp_path_factory.mktemp("outside")
    write_data(root / "data")
    (root / "my_lab").mkdir()
    (root / "my_lab" / "__init__.py").touch()
    (root / "my_lab" / "parts.py").write_text(PARTS)
    (root / "configs" / "generator").mkdir(parents=True)
    (root / "configs" / "my_run.yaml").write_text(RUN)
    (root / "configs" / "generator" / "mine.yaml").write_text("_target_: my_lab.parts.MyGenerator\nwidth: 8\n")
    for epochs in (1, 2):
        train(root, f"trainer.kwargs.max_epochs={epochs}")
    return root


def train(root: Path, *more: str) -> None:
    overrides = [each for each in shrunk(root, *more) if each not in OFFICIAL]
    overrides += [f"hydra.run.dir={root / 'run'}", "trainer.resume_from_checkpoint=auto"]
    done = run_script(
        "train.py", "--config-dir", "configs", "-cn", "my_run", *overrides, cwd=root, PYTHONPATH=str(root)
    )
    assert done.returncode == 0, done.stderr


def logged(root: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for version in sorted((root / "run" / "mine").iterdir()):
        with (version / "metrics.csv").open() as file:
            rows += csv.DictReader(file)
    return rows


def test_every_part_of_its_own_took_part_in_a_run_and_its_resume(lab: Path):
    rows = logged(lab)
    assert sum(bool(row.get("train_gen_mine")) for row in rows) == 8
    brightness = [float(row["val_brightness_total_mean"]) for row in rows if row.get("val_brightness_total_mean")]
    assert len(brightness) == 2
    assert all(0 < value < 1 for value in brightness)
    assert (lab / "run" / "batches.txt").read_text() == "8"  # of both starts: the callback's state was resumed
    assert not (lab / "tb").exists()
    checkpoint = torch.load(lab / "run" / "models" / "last.ckpt", weights_only=False)
    optimizer = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert optimizer["initial_lr"] == 0.01
    assert optimizer["lr"] == pytest.approx(0.0001)  # a tenth after 4 steps, again after 8


def test_prediction_refuses_its_code_until_the_package_is_trusted(lab: Path):
    arguments = ["model.path=run", "indir=data/val", "outdir=out", "device=cpu"]
    refused = run_script("predict.py", *arguments, cwd=lab, PYTHONPATH=str(lab))
    assert refused.returncode == 1
    assert "generator._target_: my_lab.parts.MyGenerator" in refused.stderr
    assert "trust=[my_lab]" in refused.stderr
    assert not (lab / "out").exists()
    done = run_script("predict.py", *arguments, "trust=[my_lab]", cwd=lab, PYTHONPATH=str(lab))
    assert done.returncode == 0, done.stderr
    assert len(list((lab / "out").glob("*.png"))) == 2


def test_python_refuses_and_trusts_the_same(lab: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(lab))
    for trust in ((), ("my",), ("my_lab.part",), "torch"):
        with pytest.raises(InputError, match=r"generator\._target_: my_lab\.parts\.MyGenerator: .*trust=\[my_lab\]"):
            Inpainter.from_run(lab / "run", device="cpu", trust=trust)
    inpainter = Inpainter.from_run(lab / "run", device="cpu", trust=("my_lab",))
    image, mask = torch.rand(1, 3, 30, 34), torch.zeros(1, 1, 30, 34)
    mask[..., 10:20, 10:20] = 1
    filled = inpainter(image, mask)
    assert torch.equal(filled[..., :10], image[..., :10])
    assert not torch.equal(filled, image)


def test_export_needs_the_same_trust(lab: Path):
    refused = run_script("export.py", "run", "net.pt", cwd=lab, PYTHONPATH=str(lab))
    assert refused.returncode == 1
    assert "trust" in refused.stderr
    done = run_script("export.py", "run", "net.pt", "--trust", "my_lab", cwd=lab, PYTHONPATH=str(lab))
    assert done.returncode == 0, done.stderr
    exported: Any = torch.jit.load(str(lab / "net.pt"))
    assert exported(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)).shape == (1, 3, 64, 64)
