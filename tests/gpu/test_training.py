"""Training steps on the device: the official numbers, half precision, no wait of the host, broken batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from saicinpainting.losses.perceptual import ResNetPL
from saicinpainting.networks.padding import reflect_pad
from saicinpainting.networks.resnet_encoder import ResNetEncoder
from saicinpainting.training.epoch_loop import use_exact_epochs
from saicinpainting.training.factory import make_training_model
from saicinpainting.training.optimizers import suit_this_run
from tests.golden_steps import PATHS, STEPS, GoldenBatches, Recorder, golden_config
from tests.helpers import assert_same, fill, golden_arrays, golden_values, rand


def make_model(**options: Any) -> Any:
    config = golden_config()
    config["training_model"] |= options
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    return model


def fit(model: Any, device: torch.device, *callbacks: pl.Callback, batches: Any = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    use_exact_epochs(trainer)  # as a run does
    trainer.fit(model, DataLoader(batches or GoldenBatches(torch.float32), batch_size=None))
    return trainer


@pytest.mark.costly
@pytest.mark.parametrize("path", PATHS)
def test_ten_steps_in_float64_are_the_official_ones(device: torch.device, path: str) -> None:
    model, recorder = make_model(**PATHS[path]), Recorder()
    fit(model, device, recorder, batches=GoldenBatches(), precision="64-true", max_epochs=1)
    assert len(recorder.steps) == STEPS
    names = {name: f"train_{name}" for name in golden_values()["training"][0]}
    names |= {n: f"train_adv_{n}" for n in ("discr_real_out", "discr_fake_out", "discr_real_gp")}
    for step, golden in zip(recorder.steps, golden_values()["training"], strict=True):
        for name, expected in golden.items():
            assert step[names[name]] == pytest.approx(expected, rel=1e-6), name
    generator = model.generator.double().eval().to(device)
    with torch.no_grad():
        output = generator(rand(7, 1, 4, 64, 64).double().to(device)).float().cpu()
    torch.testing.assert_close(output, golden_arrays()["training.final.64x64"], atol=1e-5, rtol=0)


HALF = [pytest.param(precision, marks=pytest.mark.costly) for precision in ("bf16-mixed", "16-mixed")]


@pytest.mark.parametrize("precision", ["32-true", *HALF])
def test_two_steps_are_near_the_official_ones(device: torch.device, precision: Any) -> None:
    """Loss scaling must not reach the clipped gradient: the logged norms are those of full precision.

    Adam's first step divides small gradients by themselves, which enlarges rounding in the second.
    """
    tolerance = 0.01 if precision == "32-true" else 0.1
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # at Lightning's first scale, 65536, the first steps would be skipped
        scaler = torch.amp.GradScaler(device.type, init_scale=256.0)
        options = {"plugins": [MixedPrecision(precision, device.type, scaler)]}
    recorder = Recorder()
    fit(make_model(), device, recorder, max_steps=2, **options)
    for step, golden in zip(recorder.steps, golden_values()["training"], strict=False):
        for name in ("gen_l1", "gen_fm", "gen_grad_norm", "discr_adv", "discr_grad_norm"):
            assert step[f"train_{name}"] == pytest.approx(golden[name], rel=tolerance), name


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_trains_with_lightnings_own_scale(device: torch.device, precision: Any) -> None:
    model, recorder = make_model(reuse_generator_output=True), Recorder()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, device, recorder, max_epochs=1, precision=precision)  # float16 looks for its scale in the first steps
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all(), name
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter.cpu(), before[name])]
    assert {name.partition(".")[0] for name in moved} == {"generator", "discriminator"}
    assert all(math.isfinite(value) for value in recorder.steps[-1].values())


class RefuseHostReads(TorchDispatchMode):
    """On a CPU, where nothing is waited for: what would have to wait on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"{function} reads from the device")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_synchronization(device: torch.device) -> Iterator[None]:
    """Raise where the host waits for the device."""
    if device.type == "cpu":
        with RefuseHostReads():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoSynchronization(pl.Callback):
    """In the steps from `first` on; those before fill caches."""

    def __init__(self, device: torch.device, first: int) -> None:
        self.device, self.first = device, first
        self.steps = 0
        self.guarded = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, i: int) -> None:
        if i >= self.first:
            self.guarded.enter_context(no_synchronization(self.device))

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, batch: Any, i: int) -> None:
        self.guarded.close()
        self.steps += i >= self.first

    def on_exception(self, *_: Any) -> None:
        self.guarded.close()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}], ids=["default", "fast"])
def test_three_steps_do_not_wait_for_the_device(device: torch.device, options: dict[str, Any]) -> None:
    guard = NoSynchronization(device, first=3)
    model = make_model(reuse_generator_output=bool(options))
    fit(model, device, guard, max_steps=6, log_every_n_steps=1000, **options)
    assert guard.steps == 3


class SpoiledBatches(GoldenBatches):
    """The second of them holds a number that is not finite."""

    def __init__(self) -> None:
        super().__init__(torch.float32)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        batch = super().__getitem__(i)
        if i == 1:
            batch["image"][0, 0, 0, 0] = torch.nan
        return batch


class States(pl.Callback):
    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_batch_that_is_not_finite_leaves_the_weights_as_they_were(device: torch.device, precision: Any) -> None:
    states = States()
    fit(make_model(), device, states, batches=SpoiledBatches(), max_steps=3, precision=precision)
    before, spoiled, after = states.states
    for name, tensor in spoiled.items():
        assert torch.equal(tensor, before[name]), name
    assert all(tensor.isfinite().all() for tensor in after.values())
    for network in ("generator", "discriminator"):
        assert any(not torch.equal(after[n], before[n]) for n in after if n.startswith(network))


@pytest.mark.costly
def test_the_layout_of_maps_changes_no_logged_value(device: torch.device) -> None:
    logged = []
    for channels_last in (False, True):
        recorder = Recorder()
        fit(make_model(channels_last=channels_last), device, recorder, batches=GoldenBatches(), max_steps=2,
            precision="64-true")  # fmt: skip
        logged.append(recorder.steps)
    for one, other in zip(*logged, strict=True):
        assert one == pytest.approx(other, rel=1e-8)


@pytest.mark.costly
@pytest.mark.parametrize("layout", [True, False], ids=["channels last", "contiguous"])
def test_a_deterministic_run_repeats_itself(device: torch.device, layout: bool) -> None:
    states = []
    try:
        for _ in range(2):
            model = make_model(channels_last=layout)
            torch.manual_seed(0)
            model.loss_resnet_pl = ResNetPL(ResNetEncoder("resnet50dilated"))  # as in published configs
            fit(model, device, max_steps=3, deterministic=True)
            states.append({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(*states)


class OneSmallerBatch(GoldenBatches):
    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {name: value[: 3 if i == 1 else 4] for name, value in super().__getitem__(i).items()}


@pytest.mark.costly
def test_a_compiled_run_with_one_smaller_batch_computes_the_same(device: torch.device) -> None:
    recorders = [Recorder(), Recorder()]
    for recorder, compiled in zip(recorders, (False, True), strict=True):
        fit(make_model(compile=compiled), device, recorder, batches=OneSmallerBatch(torch.float32), max_steps=3)
    for eager, compiled in zip(*(recorder.steps for recorder in recorders), strict=True):
        assert compiled == pytest.approx(eager, rel=1e-3, abs=1e-5)


def test_an_optimizer_resumed_from_a_run_that_was_not_fused_is_fused(device: torch.device) -> None:
    network = torch.nn.Conv2d(3, 4, 3, device=device)
    plain, fused = (torch.optim.Adam(network.parameters(), fused=kind) for kind in (None, True))
    network(torch.ones(1, 3, 8, 8, device=device)).sum().backward()
    plain.step()
    fused.load_state_dict(plain.state_dict())
    suit_this_run(fused)
    fused.step()
    assert fused.param_groups[0]["fused"]
    assert {state["step"].device.type for state in fused.state.values()} == {device.type}
    assert {float(state["step"]) for state in fused.state.values()} == {2.0}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reflected_borders_are_those_of_the_cpu(
    device: torch.device, layout: torch.memory_format, deterministic: bool
) -> None:
    x = rand(1, 2, 6, 9, 8).contiguous(memory_format=layout).requires_grad_()
    expected = torch.nn.functional.pad(x, (1, 2, 3, 0), mode="reflect")
    weights = rand(2, *expected.shape)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    there = x.detach().to(device).requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    try:
        padded = reflect_pad(there, (1, 2, 3, 0))
        (gradient,) = torch.autograd.grad((padded * weights.to(device)).sum(), there)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(padded.cpu(), expected)
    torch.testing.assert_close(gradient.cpu(), expected_gradient)
    if not deterministic:
        assert padded.is_contiguous(memory_format=layout)
