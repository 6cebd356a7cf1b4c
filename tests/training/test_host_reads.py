"""A step reads nothing back from the device unless it is logged or shown."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.monitors import ProgressBar
from saicinpainting.training.symptoms import SymptomMonitor
from tests.golden_steps import GoldenBatches, golden_config
from tests.helpers import fill

READS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal")


class Reads(TorchDispatchMode):
    """Operators after which the host has to wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name in READS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class Watch(pl.Callback):
    """The reads of each batch, from its start to its end, other callbacks included."""

    def __init__(self) -> None:
        self.reads: list[dict[str, int]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self._mode = Reads()
        self._mode.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self._mode.__exit__(None, None, None)
        self.reads.append(dict(self._mode.counts))


def reads(steps: int, precision: Any, model_settings: dict[str, Any], read_in_step: int | None = None) -> list[Any]:
    config = golden_config()
    config["training_model"] |= model_settings
    config["losses"]["adversarial"]["gp_interval"] = 3
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    if read_in_step is not None:  # what the test is to find

        def look(module: Any, inputs: Any, output: torch.Tensor) -> None:
            if model.global_step == read_in_step:
                float(output.detach().mean())

        model.generator.register_forward_hook(look)
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, max_steps=steps, callbacks=[watch], log_every_n_steps=100,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    logged = []
    model.log_dict = lambda *_, **__: logged.append(model.global_step)
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    assert not logged, "Lightning spends milliseconds of the host on it"
    return watch.reads


AVERAGED = {"average_generator": True, "average_generator_start_step": 1, "average_generator_period": 2}


@pytest.mark.parametrize(
    ("precision", "settings"),
    [(32, {}), ("bf16-mixed", {"reuse_generator_output": True}), (32, AVERAGED), (32, {"nonfinite": "stop"})],
    ids=["default", "fast", "averaging", "stop"],
)
def test_no_step_reads_anything(precision, settings):
    assert reads(6, precision, settings) == [{}] * 6


@pytest.mark.parametrize(("settings", "expected"), [
    ({"log_every_n_steps": 3}, [2, 5]),
    ({"log_every_n_steps": 0}, []),
    ({"log_every_n_steps": 1}, list(range(8))),
])  # fmt: skip
def test_only_steps_that_something_looks_at_are_logged(settings, expected):
    model, logged = make_training_model(golden_config()), []
    model.log_dict = lambda values, **_: logged.append((model.global_step - 1, sorted(values)))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=8, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    assert [step for step, _ in logged] == expected
    for _, names in logged:
        assert {"train_gen_l1", "train_skipped_batches", "train_discr_grad_norm"} <= set(names)


def test_the_progress_bar_shows_the_loss_of_the_latest_step():
    model = make_training_model(golden_config())
    bar, shown = ProgressBar(refresh_rate=1), []
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, callbacks=[bar], logger=False, enable_checkpointing=False,
        enable_model_summary=False, log_every_n_steps=100,
    )  # fmt: skip
    get_metrics = bar.get_metrics
    bar.get_metrics = lambda *arguments: shown.append(get_metrics(*arguments)) or shown[-1]
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    assert shown[-1]["l1"] == float(model.latest_logs["gen_l1"])


def test_symptoms_are_looked_for_by_one_read_in_logged_steps_alone(monkeypatch):
    model = make_training_model(golden_config())
    model.log_dict = lambda *_, **__: None  # what Lightning reads of it is not ours
    watch, seen, to_list = Watch(), [], torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        seen.append((model.global_step, tensor.shape))
        return to_list(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)  # on a CPU no operator that `Reads` could see
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=6, callbacks=[SymptomMonitor(settle_steps=2, window=2), watch],
        log_every_n_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(GoldenBatches(torch.float32), batch_size=None))
    assert watch.reads == [{}] * 6
    assert seen == [(4, (7,)), (6, (7,))]  # loss, two scores, penalty, three colours


def test_a_read_would_be_found():
    assert reads(4, 32, {"reuse_generator_output": True}, read_in_step=2)[2] == {"_local_scalar_dense": 1}
