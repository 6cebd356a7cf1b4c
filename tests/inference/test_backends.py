"""What fills batches: refinement at any size, and options that would be ignored."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from saicinpainting.inference import backends as fillers
from saicinpainting.inference import refinement
from saicinpainting.inference.backends import RefinementBackend, load_backend, share_limits, warn_of_unrefined
from saicinpainting.inference.edges import EdgeSettings
from saicinpainting.inference.fast.folding import FoldedGenerator
from saicinpainting.inference.refinement import RefinerSettings, scales_of
from saicinpainting.io.ranks import Ranks
from saicinpainting.utils import InputError
from tests.helpers import photo, rand, write_run
from tests.ranks import in_threads
from tests.samples import refining

REFUSED = [
    ({"compile_network": True}, "compile=True"),
    ({"strategy": "crop"}, "strategy=crop"),
    ({"cuda_graphs": True}, "cuda_graphs=True"),
]


@pytest.mark.parametrize(
    ("checkpoint", "refine", "option", "message"),
    [
        ("lama.onnx", False, {"precision": "bf16"}, "precision=bf16: .* cannot follow it; leave precision out"),
        (
            "best.ckpt",
            True,
            {"out_key": "predicted_image"},
            "out_key=predicted_image: refine=true gives",
        ),
        ("lama.onnx", True, {}, r"refine=true: lama\.onnx is an ONNX file, which cannot be refined; leave refine out"),
        ("lama.onnx", False, {"out_key": "predicted_image"}, "out_key=predicted_image: an ONNX file gives inpainted"),
        (
            "best.ckpt",
            False,
            {"out_key": "predicted_image", "strategy": "crop"},
            "out_key=predicted_image: .* set strategy=whole",
        ),
        ("best.ckpt", True, {"refiner": {"gpu_ids": 99}}, r"refiner\.gpu_ids: GPU 99 asked for"),
        ("lama.onnx", False, {"fold": False}, "fold=False: an ONNX file cannot follow it; leave fold out"),
        *(("lama.onnx", False, *refused) for refused in REFUSED),
        *(("best.ckpt", True, *refused) for refused in REFUSED),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    checkpoint: str, refine: bool, option: dict[str, Any], message: str
) -> None:
    settings = {"path": "run", "checkpoint": checkpoint}
    with pytest.raises(InputError, match=message):
        load_backend(settings, torch.device("cpu"), refine=refine, **{"fold": True, **option})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"path": write_run(tmp_path_factory.mktemp("trained")), "checkpoint": "best.ckpt"}


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 90), (8, 8)])
def test_images_smaller_than_networks_take_are_refined(model: dict[str, Any], size: tuple[int, int]) -> None:
    image, mask = rand(1, 2, 3, *size), torch.zeros(2, 1, *size)
    mask[:, :, 0, 0] = 1
    filled = refining(model)({"image": image, "mask": mask, "unpad_to_size": size})
    assert filled.shape == image.shape
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    assert (filled[~known] != image[~known]).all()


def test_images_above_the_budget_are_refined_part_by_part_at_their_own_size(model: dict[str, Any]) -> None:
    image, mask = rand(1, 1, 3, 400, 424), torch.zeros(1, 1, 400, 424)
    mask[:, :, 20:30, 20:40] = 1  # with 128 pixels around it: 158 x 168
    batch = {"image": image, "mask": mask, "unpad_to_size": (400, 424)}
    filled = refining(model, px_budget=30_000)(batch)
    part = {"image": image[:, :, :158, :168], "mask": mask[:, :, :158, :168], "unpad_to_size": (158, 168)}
    assert torch.equal(filled[:, :, :158, :168], refining(model)(part))
    assert torch.equal(filled[mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])
    enlarged = refining(model, px_budget=10_000)(batch)
    known = mask.expand_as(image) == 0
    assert torch.equal(enlarged[known], image[known])
    assert enlarged[~known].isfinite().all()
    assert not torch.equal(enlarged[~known], filled[~known])


def test_images_that_have_one_scale_are_counted(model: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    def told(*sizes: tuple[int, int], **refiner: Any) -> str:
        caplog.clear()
        fill = load_backend(model, "cpu", refine=True, refiner={"n_iters": 2, "min_side": 40, **refiner})
        for height, width in sizes:
            image, mask = rand(1, 2, 3, height, width), torch.zeros(2, 1, height, width)
            mask[:, :, 20:30, 20:30] = 1
            fill({"image": image, "mask": mask, "unpad_to_size": (height, width)})
        warn_of_unrefined(fill)
        return "; ".join(caplog.messages)

    line = told((48, 90), (64, 57), (56, 56))
    assert line.startswith("refine=true: 4 of 6 images were filled without refinement")
    assert line.endswith("above 56 pixels, refiner.min_side=40 times 1.41; lower refiner.min_side")
    assert not told((64, 57))
    assert not told((200, 200), px_budget=30_000)
    assert "2 of 2 images" in told((200, 200), px_budget=30_000, min_side=150)  # 158 x 158 pixels around the hole
    assert "refiner.max_scales=1 leaves no coarser scale" in told((64, 64), max_scales=1)


def test_without_memory_for_all_batches_are_halved_and_images_refined_smaller(
    model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    most, tried = 2 * 100 * 120, []
    real = fillers.refine_predict

    @functools.wraps(real)
    def refine(batch: dict[str, Any], network: Any, **settings: Any) -> torch.Tensor:
        height, width = batch["image"].shape[2:]
        number, pixels = len(batch["image"]), min(height * width, settings["px_budget"])
        tried.append((number, pixels))
        if number * pixels > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch, network, **settings)

    image, mask = rand(1, 5, 3, 100, 120), torch.zeros(5, 1, 100, 120)
    mask[:, :, 20:60, 20:50] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": (100, 120)}
    expected = refining(model)(batch)
    monkeypatch.setattr(fillers, "refine_predict", refine)
    fill = refining(model, cuda_graphs=False)
    torch.testing.assert_close(fill(batch), expected, atol=1e-3, rtol=0)
    assert [number for number, _ in tried] == [5, 3, 2, 1, 2]
    assert isinstance(fill, fillers.RefinementBackend)
    assert (fill.n_images, fill.n_plain) == (5, 0)
    # An image that does not fit: its part, which is all of it here, then ever less of that.
    monkeypatch.setattr("saicinpainting.io.memory.FEWEST_PIXELS", 2000)
    most, tried = 5000, []
    one = {key: value[:1] if torch.is_tensor(value) else value for key, value in batch.items()}
    filled = fill(one)
    assert tried == [(1, 12000), (1, 12000), (1, 6000), (1, 3000)]
    known = mask[:1].expand_as(filled) == 0
    assert torch.equal(filled[known], image[:1][known])
    assert filled.isfinite().all()
    most = 0
    with pytest.raises(InputError, match="out of memory: not even 2000 pixels at once fit"):
        fill(one)


@pytest.mark.parametrize(("side", "scales"), [(56, 1), (57, 2), (113, 2), (114, 3)])
def test_one_scale_is_no_refinement(model: dict[str, Any], side: int, scales: int) -> None:
    assert scales_of(side, side + 9, min_side=40, max_scales=3, px_budget=1_800_000) == scales
    image, mask = rand(1, 1, 3, side, side), torch.zeros(1, 1, side, side)
    mask[:, :, 20:40, 20:40] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": (side, side)}
    once, thrice = (
        load_backend(model, "cpu", refine=True, refiner={"n_iters": n, "min_side": 40})(batch) for n in (1, 3)
    )
    assert torch.equal(once, thrice) == (scales == 1)


@pytest.mark.parametrize(
    "overrides",
    [
        ("training_model.concat_mask=false", "generator.input_nc=3"),
        ("+training_model.add_noise_kwargs={scales: 1}", "generator.input_nc=5"),
    ],
)
def test_networks_with_other_inputs_are_not_refined(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="this one takes noise, or no mask; set refine=false"):
        refining({"path": write_run(tmp_path, *overrides), "checkpoint": "best.ckpt"})


def test_refinement_follows_fold_and_precision(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = torch.tensor(photo(size=64)).permute(2, 0, 1)[None] / 255, torch.zeros(1, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": (64, 64)}
    used = []
    real = refinement._Network
    monkeypatch.setattr(refinement, "_Network", lambda *settings: used.append(settings) or real(*settings))
    plain, folded, rough = (
        refining(model, **options)(batch) for options in ({"fold": False}, {}, {"precision": "bf16"})
    )
    assert [isinstance(generator, FoldedGenerator) for generator, _, _ in used] == [False, True, True]
    assert [dtype for _, _, dtype in used] == [None, None, torch.bfloat16]
    inside = mask.expand_as(image) > 0
    assert 0 < (folded - plain)[inside].abs().mean() < 1e-3
    assert (folded - plain)[inside].abs().mean() < (rough - plain)[inside].abs().mean() < 0.02
    with pytest.raises(InputError, match="precision: unknown value 'half'"):
        refining(model, precision="half")
    with pytest.raises(InputError, match=r"refiner.n_iter: unknown config key; .*'n_iters'"):
        load_backend(model, torch.device("cpu"), refine=True, refiner={"n_iter": 3})


@pytest.mark.parametrize("key", ["refine", "fold", "compile_network"])
def test_a_switch_that_is_a_text_is_not_taken_for_true(model: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"^{key.removesuffix('_network')}: expected true or false, got 'no'"):
        load_backend(model, "cpu", **{key: "no"})


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        ({"n_iters": 0}, "refiner.n_iters: expected a whole number of at least 1, got 0"),
        ({"n_iters": -3}, "refiner.n_iters: .* got -3"),
        ({"n_iters": 2.5}, "refiner.n_iters: .* got 2.5"),
        ({"max_scales": 0}, "refiner.max_scales: expected a whole number of at least 1, got 0"),
        ({"modulo": None}, "refiner.modulo: expected a whole number, got None"),
        ({"min_side": 0}, "refiner.min_side: expected a number of pixels above 0, got 0"),
        ({"px_budget": -1}, "refiner.px_budget: expected a number of pixels above 0, got -1"),
        ({"modulo": 3}, "refiner.modulo: expected a multiple of 8, .* got 3; set refiner.modulo=8"),
    ],
)
def test_refiner_settings_are_checked_before_the_work(
    model: dict[str, Any], refiner: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_backend(model, "cpu", refine=True, refiner=refiner)


def test_ranks_of_a_machine_have_its_memory_together_as_rank_0_measured_it(model: dict[str, Any]) -> None:
    """So that none fills an image in parts that another would fill whole."""
    edges = [None, EdgeSettings(grow=2)]
    backends: list[Any] = [load_backend(model, torch.device("cpu"), edge=edge) for edge in edges]
    inpainters = [backends[0].inpainter, backends[1].backend.inpainter]
    inpainters[0].memory_gb, inpainters[1].memory_gb = 6.0, 5.0
    in_threads(2, lambda ranks: share_limits(backends[ranks.rank], ranks))
    assert [one.memory_gb for one in inpainters] == [6.0, 6.0]  # each a machine's only rank
    in_threads(2, lambda ranks: share_limits(backends[ranks.rank], of_one_machine(ranks)))
    assert [one.memory_gb for one in inpainters] == [3.0, 3.0]
    in_threads(2, lambda ranks: share_limits(backends[ranks.rank], of_one_machine(ranks), 7.0))
    share_limits(backends[0], Ranks())
    assert [one.memory_gb for one in inpainters] == [3.0, 3.0]


def refining_nothing(settings: RefinerSettings) -> RefinementBackend:
    network: Any = torch.nn.Identity()
    network.min_size = 8
    return RefinementBackend(network, settings)


def of_one_machine(ranks: Ranks) -> Ranks:
    ranks.local_rank, ranks.local_count = ranks.rank, ranks.count
    return ranks


def test_ranks_do_not_refine_on_the_same_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    backend = refining_nothing(RefinerSettings(gpu_ids="0,1"))
    with pytest.raises(
        InputError, match=r"refiner\.gpu_ids=0,1: each of 2 processes has a card of its own; leave it out"
    ):
        share_limits(backend, Ranks(1, 2))
    share_limits(backend, Ranks())


def test_images_that_were_not_refined_are_counted_over_all_ranks(caplog: pytest.LogCaptureFixture) -> None:
    backends = []
    for n_images, n_plain in ((5, 0), (4, 2)):
        backend = refining_nothing(RefinerSettings())
        backend.n_images, backend.n_plain = n_images, n_plain
        backends.append(backend)
    in_threads(2, lambda ranks: warn_of_unrefined(backends[ranks.rank], ranks))
    assert [record.message.partition(" images")[0] for record in caplog.records] == ["refine=true: 2 of 9"]
