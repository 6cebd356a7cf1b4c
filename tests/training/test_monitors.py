from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saicinpainting.config import register_resolvers
from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.training import monitors as watching
from saicinpainting.training.checkpoints import TensorsOnlyCheckpointIO
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.monitors import memory, watch
from saicinpainting.training.run import make_data_module, make_trainer
from saicinpainting.utils import InputError
from tests.helpers import ROOT, shrunk, write_data

STEPS = 4  # eight images in batches of two
NAMES = {"speed_step_seconds", "speed_data_wait_share", "speed_images_per_second", "lr_generator", "lr_discriminator"}


def scalars(tb_dir: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of the only event file below `tb_dir`, by TensorBoard's own reader."""
    (file,) = tb_dir.rglob("events*")
    board = EventAccumulator(str(file))
    board.Reload()
    return {tag: {s.step: s.value for s in board.Scalars(tag)} for tag in board.Tags()["scalars"]}


# ---- on a clock that only data, steps and validation move --------------------------------------------------------


class Clock:
    now = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


class SlowImages(torch.utils.data.Dataset):
    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.clock.advance(self.seconds)
        return {"image": torch.ones(1)}


class TwoNetworks(pl.LightningModule):
    """Two optimizers stepped by hand, three seconds a step; validation and the end of an epoch take long."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layers = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(2))
        self.clock = clock

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = (0.5, 0.25)
        return [torch.optim.SGD(n.parameters(), lr=r) for n, r in zip(self.layers, rates, strict=True)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.advance(3)
        self.optimizers()[0].step()
        self.log("loss", 1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.advance(1000)

    def on_train_epoch_end(self) -> None:
        self.clock.advance(500)


@pytest.mark.parametrize("ranks", [1, 3])
def test_speed_is_that_of_training_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int):
    """Half a second an image, batches of four, three seconds a step: 5 s a step, 2 of them waiting."""
    clock = Clock()
    monkeypatch.setattr(pl.Trainer, "world_size", ranks)  # the others are as fast
    monkeypatch.setattr(watching, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    profiler, callbacks = watch(None, [10, 15], tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, val_check_interval=2, num_sanity_val_steps=1, log_every_n_steps=2,
        profiler=profiler, callbacks=callbacks, logger=TensorBoardLogger(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loaders = [torch.utils.data.DataLoader(SlowImages(clock, seconds), batch_size=4) for seconds in (0.5, 100)]
    trainer.fit(TwoNetworks(clock), *loaders)
    logged = scalars(tmp_path)
    steps = [1, 3, 5, 7]  # of nine; every second one
    assert list(logged["loss"]) == steps
    expected = {
        "speed_step_seconds": 5, "speed_data_wait_share": 0.4, "speed_images_per_second": 0.8 * ranks,
        "lr_generator": 0.5, "lr_discriminator": 0.25,
    }  # fmt: skip
    for name, value in expected.items():
        assert list(logged[name]) == steps
        assert list(logged[name].values()) == pytest.approx([value] * len(steps))


# ---- real runs, shrunk -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watching")
    write_data(root / "data")
    return root


def fit(
    root: Path,
    out: Path,
    *,
    epochs: int = 1,
    every: int = 2,
    ckpt_path: Path | None = None,
    profile: str | None = None,
    profile_steps: Sequence[int] = (10, 15),
) -> torch.nn.Module:
    """Train lama-fourier, shrunk, watched; logs and models/last.ckpt in `out`."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        config = compose("lama-fourier", shrunk(root, f"visualizer.outdir={out / 'samples'}"))
    settings: Any = OmegaConf.to_container(config, resolve=True)
    pl.seed_everything(0)
    data: InpaintingDataModule = make_data_module(settings)
    model = make_training_model(settings)
    profiler, callbacks = watch(profile, profile_steps, out)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, log_every_n_steps=every, num_sanity_val_steps=0, profiler=profiler,
        callbacks=[*callbacks, ModelCheckpoint(out / "models", save_last=True)], logger=TensorBoardLogger(out),
        plugins=[TensorsOnlyCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def test_scalars_stand_beside_the_losses_over_a_resume(root: Path, tmp_path: Path):
    fit(root, tmp_path / "first", epochs=1, every=3)
    fit(root, tmp_path / "second", epochs=3, every=3, ckpt_path=tmp_path / "first" / "models" / "last.ckpt")
    for out, steps in ((tmp_path / "first", [2]), (tmp_path / "second", [5, 8, 11])):
        logged = scalars(out)
        assert list(logged["train_gen_l1"]) == steps
        for name in NAMES | {"memory_process_mb"}:
            assert list(logged[name]) == steps, name
        for seconds, images in zip(
            logged["speed_step_seconds"].values(), logged["speed_images_per_second"].values(), strict=True
        ):
            assert seconds * images == pytest.approx(2)  # the batch
        assert all(0 < share < 1 for share in logged["speed_data_wait_share"].values())
        assert list(logged["lr_generator"].values()) == pytest.approx([1e-3] * len(steps))
        assert list(logged["lr_discriminator"].values()) == pytest.approx([1e-4] * len(steps))


def test_the_trace_holds_its_window_and_changes_nothing(root: Path, tmp_path: Path):
    plain = fit(root, tmp_path / "plain", epochs=2)
    profiled = fit(root, tmp_path / "out", epochs=2, profile="torch", profile_steps=[2, 5])
    for name, tensor in plain.state_dict().items():
        assert torch.equal(profiled.state_dict()[name], tensor), name
    assert list(scalars(tmp_path / "out")["train_gen_l1"]) == [1, 3, 5, 7]  # training went on
    with gzip.open(tmp_path / "out" / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}
    table = (tmp_path / "out" / "profile" / "operators.txt").read_text()
    assert "aten::convolution_backward" in table
    (steps_row,) = (line.split() for line in table.splitlines() if "ProfilerStep*" in line)
    assert steps_row[-1] == "3"


@pytest.mark.parametrize(("window", "message"), [((10, 15), "nothing was profiled"), ((2, 15), "only these")])
def test_a_run_that_ends_before_its_window_says_so(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, window: tuple[int, int], message: str
):
    with caplog.at_level(logging.WARNING):
        fit(root, tmp_path, profile="torch", profile_steps=list(window))
    assert f"the run ended after {STEPS} steps, {message}" in caplog.text
    assert (tmp_path / "profile" / "trace.json.gz").is_file() == (window[0] < STEPS)


def test_the_simple_profile_is_a_table(root: Path, tmp_path: Path):
    fit(root, tmp_path, profile="simple")
    (report,) = (tmp_path / "profile").iterdir()
    (row,) = (line.split("|") for line in report.read_text().splitlines() if "run_training_batch" in line)
    assert int(row[3]) == STEPS
    assert set(scalars(tmp_path)) >= NAMES  # the waiting time is known all the same


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"profile": "pytorch"}, r"trainer\.profile: expected simple, torch or null, got 'pytorch'"),
        ({"profile_steps": [5, 5]}, r"1 <= first < end.*got \[5, 5\]"),
        ({"profile_steps": [0, 5]}, "1 <= first"),
        ({"profile_steps": 5}, "expected a list, each a whole number, got 5"),
        ({"profile_steps": [1, 2.5]}, "expected a list"),
    ],
)
def test_a_wrong_switch_is_found_beforehand(tmp_path: Path, section: dict, message: str):
    trainer = {"kwargs": {"accelerator": "cpu"}, "checkpoint_kwargs": {"save_top_k": 0}, **section}
    settings = {"trainer": trainer, "location": {"tb_dir": "tb"}}
    with pytest.raises(InputError, match=message):
        make_trainer(settings, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from Linux's /proc")
def test_memory_counts_what_is_allocated():
    before = memory(torch.device("cpu"))["memory_process_mb"]
    block = np.ones(25_000_000)  # 200 MB
    assert memory(torch.device("cpu"))["memory_process_mb"] - before == pytest.approx(block.nbytes / 1e6, abs=40)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_of_a_gpu():
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats(device)
    before = memory(device)["memory_gpu_peak_mb"]
    torch.empty(25_000_000, device=device)  # 100 MB
    after = memory(device)
    assert after["memory_gpu_peak_mb"] - before == pytest.approx(100, abs=5)
    assert after["memory_gpu_reserved_mb"] >= 100
