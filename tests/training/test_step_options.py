"""What makes a step faster: what changes nothing, and what the preset `trainer=fast` changes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from saicinpainting.training import compilation
from saicinpainting.training.compilation import COMPILE_FROM_STEPS, compile_networks, wants_compilation
from saicinpainting.training.factory import make_training_model
from saicinpainting.utils import InputError
from tests.golden_steps import GoldenBatches, Recorder, golden_config
from tests.helpers import fill, rand

Model = Any


def make(model_settings: dict[str, Any], **adversarial: Any) -> Model:
    config = golden_config()
    config["training_model"] |= model_settings
    config["losses"]["adversarial"] |= adversarial
    model = make_training_model(config)
    fill(model.generator)
    fill(model.discriminator)
    return model


def fit(model: Model, *, steps: int = 3, precision: Any = "64-true", callbacks: Any = ()) -> list[dict[str, float]]:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        callbacks=[recorder, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    dtype = torch.float64 if precision == "64-true" else torch.float32
    trainer.fit(model, DataLoader(GoldenBatches(dtype), batch_size=None))
    return recorder.steps


def count_calls(module: torch.nn.Module) -> list[bool]:
    """Grows by one entry per forward pass: whether it was differentiated."""
    calls: list[bool] = []
    module.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    return calls


def test_the_discriminator_sees_a_fresh_picture_unless_told_otherwise():
    model = make({})
    calls = count_calls(model.generator)
    fit(model)
    assert calls == [True, False] * 3


def test_a_run_without_its_terms_never_asks_the_discriminator():
    config = golden_config()
    config["losses"]["adversarial"]["weight"] = config["losses"]["feature_matching"]["weight"] = 0
    model = make_training_model(config)
    calls = count_calls(model.discriminator)
    (logs, *_) = fit(model)
    assert calls == []
    assert not {name for name in logs if "adv" in name or "fm" in name}


@pytest.mark.parametrize(
    ("setting", "capability", "expected"),
    [
        ("auto", "AVX2", torch.contiguous_format),
        ("auto", "AVX512", torch.channels_last),
        (True, "AVX2", torch.channels_last),
        (False, "AVX512", torch.contiguous_format),
    ],
)
def test_kernels_and_maps_have_the_layout_that_is_faster_here(monkeypatch, setting, capability, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = make({"channels_last": setting})
    maps = []
    layer = model.generator.model[2].ffc.convl2l
    layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].is_contiguous(memory_format=expected)))
    fit(model, steps=1)
    assert layer.weight.is_contiguous(memory_format=expected)
    assert maps == [True, True]


def test_reusing_the_picture_saves_the_second_forward_pass():
    model = make({"reuse_generator_output": True})
    calls = count_calls(model.generator)
    steps = fit(model)
    assert calls == [True] * 3
    # The discriminator's first step sees the picture before the generator's first step instead of after it.
    fresh = fit(make({}), steps=1)
    assert steps[0]["train_gen_l1"] == fresh[0]["train_gen_l1"]
    assert steps[0]["train_adv_discr_real_out"] == fresh[0]["train_adv_discr_real_out"]
    assert steps[0]["train_adv_discr_fake_out"] != fresh[0]["train_adv_discr_fake_out"]


def test_no_gradient_is_kept_for_the_features_of_the_real_image():
    model = make({})
    calls = count_calls(model.discriminator)
    fit(model, steps=1)
    # Real and fake in the generator's step, real and fake in the discriminator's.
    assert calls == [False, True, True, True]


def test_a_lazy_penalty_comes_every_kth_step_and_k_times_as_heavy():
    seen = []

    class Penalties(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            loss, logs = module.discriminator_loss(module({**batch}), step=i)
            plain = torch.nn.functional.softplus(-module.discriminator(batch["image"])[0]).mean()
            seen.append((float(loss), logs.get("adv_discr_real_gp"), float(plain)))

    steps = fit(make({}, gp_interval=2), steps=4, callbacks=[Penalties()])
    assert [penalty is not None for _, penalty, _ in seen] == [True, False, True, False]
    # The log shows the latest penalty in the steps between.
    penalties = [step["train_adv_discr_real_gp"] for step in steps]
    assert penalties[0] == penalties[1] != penalties[2] == penalties[3]
    every = make({}).double()
    lazy = make({}, gp_interval=16).double()
    batch = every(GoldenBatches()[0])
    dense, logs = every.discriminator_loss(batch, step=0)
    sparse, sparse_logs = lazy.discriminator_loss(batch, step=0)
    penalty = logs["adv_discr_real_gp"]
    assert sparse_logs["adv_discr_real_gp"] == pytest.approx(float(penalty))
    assert float(sparse - dense) == pytest.approx(15 * float(penalty))
    between, _ = lazy.discriminator_loss(batch, step=5)
    assert float(dense - between) == pytest.approx(float(penalty))


def test_an_impossible_interval_is_refused():
    with pytest.raises(InputError, match=r"losses\.adversarial\.gp_interval: expected 1"):
        make({}, gp_interval=0)


def test_weights_losses_and_picture_stay_float32_under_bfloat16():
    seen: dict[str, set[torch.dtype]] = {"picture": set(), "scores": set(), "inside": set()}

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            module.generator.register_forward_hook(lambda m, x, y: seen["picture"].add(y.dtype))
            module.generator.model[1].register_forward_hook(lambda m, x, y: seen["inside"].add(y[0].dtype))
            adversarial = module.adversarial_loss
            original = adversarial.generator_loss

            def spy(**kwargs: Any) -> Any:
                seen["scores"].add(kwargs["discr_fake_pred"].dtype)
                return original(**kwargs)

            adversarial.generator_loss = spy

    model = make({})
    fit(model, precision="bf16-mixed", callbacks=[Look()])
    assert seen == {"picture": {torch.float32}, "scores": {torch.float32}, "inside": {torch.bfloat16}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# ---- compilation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "device", "steps", "expected"),
    [
        ("auto", "cuda", COMPILE_FROM_STEPS, True),
        ("auto", "cuda", COMPILE_FROM_STEPS - 1, False),
        ("auto", "cpu", 10**6, False),
        (True, "cpu", 1, True),
        (False, "cuda", 10**6, False),
    ],
)
def test_when_a_run_is_compiled(setting, device, steps, expected):
    assert wants_compilation(setting, torch.device(device), planned_steps=lambda: steps) is expected


def test_a_compiled_run_computes_the_same(monkeypatch):
    """Traced and differentiated ahead of time as for the real compiler, whose code generation takes minutes."""
    compiled: list[torch.nn.Module] = []

    def compile_ahead(module: torch.nn.Module, dynamic: bool) -> None:
        compiled.append(module)
        assert not dynamic
        torch._dynamo.reset()
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_ahead)
    monkeypatch.setattr(compilation.torch, "compile", torch.compile)
    eager = fit(make({"compile": False}), steps=2)
    model = make({"compile": True})
    names = list(model.state_dict())
    steps = fit(model, steps=2)
    assert compiled == [model.generator, model.discriminator]
    assert list(model.state_dict()) == names
    for step, expected in zip(steps, eager, strict=True):
        assert step == pytest.approx(expected, rel=1e-8)


def test_validation_is_not_compiled_for_each_of_its_sizes(monkeypatch):
    """Neither the generator nor what else is compiled for training."""
    seen = []

    def look(graph: Any, inputs: Any) -> Any:
        seen.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    model = make({})
    for network in (model.generator, model.discriminator):
        network._compiled_call_impl = torch.compile(network._call_impl, backend=look)
    monkeypatch.setattr(model, "_val_titles", lambda: ["val"])
    monkeypatch.setattr(model, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(model, "_visualize", lambda *_: None)
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.eval()
    with torch.no_grad():
        for size in (64, 72, 80):
            image, mask = torch.rand(1, 3, size, size), torch.ones(1, 1, size, size)
            model.validation_step({"image": image, "mask": mask}, 0)
        assert not seen
        model({"image": image, "mask": mask})
    assert seen  # the compiler was there


def test_a_network_whose_norms_ask_other_processes_is_compiled_only_where_that_was_asked_for(monkeypatch):
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(compilation.torch, "compile", lambda function: function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, dynamic: compiled.append(network))
    joined, apart = torch.nn.Sequential(torch.nn.SyncBatchNorm(3)), torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    for required in (False, True):
        assert compile_networks([joined, apart], device=torch.device("cpu"), required=required)
    assert compiled == [apart, joined, apart]


def test_without_a_compiler_a_run_goes_on_or_says_what_is_missing(monkeypatch, caplog):
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compilation.torch, "compile", no_compiler)
    network = torch.nn.Conv2d(1, 1, 1)
    with caplog.at_level(logging.WARNING):
        assert compile_networks([network], device=torch.device("cpu"), required=False) is False
    assert "no C++ compiler" in caplog.text
    with pytest.raises(InputError, match=r"training_model\.compile=true, but nothing can be compiled here"):
        compile_networks([network], device=torch.device("cpu"), required=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": "yes"}, r"training_model\.compile: expected true, false or auto, got 'yes'"),
        ({"fft_backend": "dct"}, r"training_model\.fft_backend: expected auto, fft or products, got 'dct'"),
        ({"channels_last": "no"}, r"training_model\.channels_last: expected true, false or auto, got 'no'"),
        ({"average_generator": "false"}, r"training_model\.average_generator: expected true or false"),
        ({"distance_weighted_mask_for_discr": True}, "there is no weighted mask; set distance_weighter_kwargs"),
        ({"chanels_last": True}, r"training_model\.chanels_last: unknown config key"),
        ({"generator": 1}, r"training_model\.generator: unknown config key"),
        ({"concat_mask": False}, r"generator\.input_nc=4: .* the input has 3"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        make(settings)


@pytest.mark.parametrize(("interval", "smaller"), [(1, 1), (2, 1), (2, 0)])
def test_one_smaller_batch_and_the_penalty_are_computed_without_the_compiler(monkeypatch, interval, smaller):
    """Compiled graphs are of fixed sizes; each other batch size would be compiled anew."""
    ran: list[tuple[str, int]] = []

    def compile_ahead(module: torch.nn.Module, dynamic: bool) -> None:
        name = type(module).__name__

        def look(graph: Any, inputs: Any) -> Any:
            def run(*arguments: Any) -> Any:
                ran.append((name, max(a.shape[0] for a in arguments if torch.is_tensor(a) and a.dim() == 4)))
                return graph.forward(*arguments)

            return run

        torch._dynamo.reset()
        module._compiled_call_impl = torch.compile(module._call_impl, backend=look, dynamic=dynamic)

    class Batches(GoldenBatches):
        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            return {name: value[: 3 if i == smaller else 4] for name, value in super().__getitem__(i).items()}

    monkeypatch.setattr(torch.nn.Module, "compile", compile_ahead)
    monkeypatch.setattr(compilation.torch, "compile", torch.compile)
    model, steps = make({"compile": True, "reuse_generator_output": True}, gp_interval=interval), []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            steps.append([name for name, _ in ran])
            ran.clear()

    trainer = pl.Trainer(accelerator="cpu", precision="64-true", max_steps=4, callbacks=[Look()], logger=False,
                         enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    trainer.fit(model, DataLoader(Batches(torch.float64), batch_size=None))
    if smaller:
        assert steps[smaller] == []
    for i in {0, 1, 2, 3} - {smaller}:  # as they are even where the first batch, after a resume, is the smaller one
        assert steps[i].count("FFCResNetGenerator") == 1
        penalized = i % interval == 0
        assert steps[i].count("NLayerDiscriminator") == (2 if penalized else 4)


# ---- images of other channels ---------------------------------------------------------------------------------------


def with_channels(channels: int, discriminator: int | None = None, **sections: Any) -> dict[str, Any]:
    config = golden_config()
    config["generator"] |= {"input_nc": channels + 1, "output_nc": channels}
    config["discriminator"] = {**config["discriminator"], "input_nc": discriminator or channels}
    config["losses"] = {**config["losses"], **sections.pop("losses", {})}
    return {**config, **sections}


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_a_step_is_computed_for_any_number_of_channels(channels: int):
    model = make_training_model(with_channels(channels))
    batch = {"image": rand(0, 2, channels, 64, 64), "mask": (rand(1, 2, 1, 64, 64) > 0.7).float()}
    filled = model(batch)
    assert filled["inpainted"].shape == batch["image"].shape
    loss, _ = model.generator_loss(filled)
    loss.backward()
    assert model.generator.model[1].ffc.convl2l.weight.grad.abs().sum() > 0
    assert model.discriminator_loss(filled)[0].isfinite()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_channels(1, 3), r"discriminator\.input_nc=3: the images have 1 channels .*; set it to 1"),
        (
            with_channels(4, losses={"resnet_pl": {"weight": 30}}),
            r"losses\.resnet_pl: its network takes 1 or 3 channels, .* have 4 .*; set losses\.resnet_pl\.weight=0",
        ),
        (
            with_channels(4, losses={"perceptual": {"weight": 1}}),
            r"losses\.perceptual: .*; set losses\.perceptual\.weight=0",
        ),
        (
            with_channels(2, evaluator={"kind": "default", "lpips": False}),
            r"evaluator\.fid: .*; set evaluator\.fid=false",
        ),
    ],
)
def test_parts_that_cannot_take_the_channels_are_named(config: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        make_training_model(config)
